"""The body of /metrics, with a coordinator and without."""

from __future__ import annotations

import asyncio

from nodes.client.client import RequestFailedError
from nodes.gateway.exposition import CONTENT_TYPE, exposition, render_metrics
from nodes.telemetry.metrics.families import Family, Metric
from nodes.telemetry.metrics.gateway import GatewayMetrics
from nodes.telemetry.status import Status
from tests.nodes.memory_mesh import mesh
from tests.nodes.status_examples import STATUS
from tests.nodes.telemetry.metrics.exposed import samples_of

UP = "airdraft_coordinator_up", frozenset[tuple[str, str]]()


async def told() -> Status:
    return STATUS


async def never() -> Status:
    await asyncio.Event().wait()
    return STATUS


async def lost() -> Status:
    raise RequestFailedError("unavailable", "the coordinator was lost and came back")


async def test_mesh_and_gateway_are_one_body() -> None:
    gateway = GatewayMetrics(["/x"])
    gateway.request_started("/x").finished(200)
    found = samples_of(await render_metrics(told, gateway))
    assert found[UP] == 1
    assert {"airdraft_passes_total", "airdraft_gateway_requests_total"} <= {n for n, _ in found}
    assert CONTENT_TYPE.startswith("text/plain")


async def test_a_coordinator_that_cannot_be_asked_leaves_the_gateways_own() -> None:
    gateway = GatewayMetrics(["/x"])
    for status in (never, lost):
        found = samples_of(await render_metrics(status, gateway, limit_s=0.01))
        assert found[UP] == 0
        assert {name for name, _ in found if "gateway" not in name} == {UP[0]}
        assert any("gateway" in name for name, _ in found)


async def test_a_real_mesh_is_scraped_without_a_gateway() -> None:
    async with mesh(0.8) as members:
        client = members.start_client("client")
        await members.wait_for(client, {"target", "draft-0"})
        found = samples_of(await render_metrics(client.status))
    assert found[UP] == 1
    node = frozenset({("node", "target"), ("role", "target"), ("state", "ok")})
    assert found["airdraft_node_state", node] == 1


def test_labels_are_quoted() -> None:
    family = Family(Metric("airdraft_x", "gauge", "X.", ("node",)))
    name = 'a"b\\c\nd'
    family.add(1.5, name)
    assert samples_of(exposition([family])) == {("airdraft_x", frozenset({("node", name)})): 1.5}
