"""What /metrics says of requests and of the mesh, with a coordinator and without."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CONTENT_TYPE_LATEST

from airdraft.nodes.client.client import RequestFailedError
from airdraft.nodes.telemetry.status import Status
from tests.nodes.gateway.calls import (
    CHAT,
    TALK,
    Call,
    app_of,
    call,
    gateway_of,
    get,
    keyed_app,
    open_app,
    post,
)
from tests.nodes.gateway.fake_mesh import (
    Eventually,
    FakeMesh,
    finished,
    started,
    text_answer,
    tokens,
)
from tests.nodes.telemetry.metrics.exposed import samples_of

COORDINATOR = {"role": "coordinator", "node": ""}


class Exposed:
    """The body of /metrics."""

    def __init__(self, body: bytes) -> None:
        self.samples = samples_of(body)

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.samples.get((f"airdraft_{name}", frozenset(labels.items())))

    def requests(self, route: str, status: int) -> float | None:
        return self("gateway_requests_total", route=route, status=str(status))


async def exposed(app: Any, **headers: str) -> Exposed:
    found = await get(app, "/metrics", **headers)
    assert found.headers["content-type"] == CONTENT_TYPE_LATEST
    return Exposed(found.body)


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/", "/", 200),
        ("GET", "/healthz", "/healthz", 200),
        ("GET", "/readyz", "/readyz", 200),
        ("GET", "/v1/models", "/v1/models", 200),
        ("GET", "/v1/models/toy-1", "/v1/models/{id}", 200),
        ("POST", "/v1/models", "/v1/models", 405),
        ("GET", "/v1/models/", "/v1/models/{id}", 404),
        ("GET", "/v1/models/dir/a", "/v1/models/{id}", 404),
        ("PUT", "/v1/completions", "/v1/completions", 405),
        ("GET", "/v1/chat/completions/x", "/v1/chat/completions/{id}", 405),
        ("GET", "/v1/messages/count_tokens", "/v1/messages/count_tokens", 405),
        ("GET", "/v1/messages/count_tokens/x", "/v1/messages/{id}", 404),
        ("POST", "/v1/images", "other", 404),
        ("GET", "/v1", "other", 404),
    ],
)
async def test_routes(method: str, path: str, route: str, status: int) -> None:
    app = app_of(FakeMesh())
    found = await call(app, method, path)
    assert found.status == status
    assert status == 200 or found.json["error"]["type"] == "invalid_request_error"
    assert (await exposed(app)).requests(route, status) == 1


async def test_metrics_of_the_mesh_and_of_the_gateway_come_together() -> None:
    mesh = FakeMesh(text_answer("a", "b", "c"))
    app = app_of(mesh)
    await post(app, CHAT, TALK)
    found = await exposed(app)
    assert found("up", **COORDINATOR) == 1
    assert found.requests(CHAT, 200) == 1
    assert found("gateway_time_to_first_token_seconds_count") == 1
    assert found("gateway_time_per_output_token_seconds_count") == 1
    mesh.is_joined = False
    found = await exposed(app)
    assert (found("up", **COORDINATOR), found.requests(CHAT, 200)) == (0, 1)


@pytest.mark.parametrize("fault", [pytest.param("mute", marks=pytest.mark.slow), "lost"])
async def test_a_coordinator_that_cannot_be_asked_leaves_the_gateways_own(fault: str) -> None:
    class Faulty(FakeMesh):
        async def status(self) -> Status:
            if fault == "mute":
                await asyncio.Event().wait()
            raise RequestFailedError("unavailable", "the coordinator was lost and came back")

    gateway = gateway_of(Faulty())
    found = await exposed(open_app(gateway))
    # The question of a mute one is still open.
    await gateway.looking.status.stop()
    assert found("up", **COORDINATOR) == 0
    names = {name for name, _ in found.samples}
    assert {name for name in names if "gateway" not in name} == {"airdraft_up"}
    assert any("gateway" in name for name in names)


async def test_what_is_refused_is_counted_too(tmp_path: Path) -> None:
    app = keyed_app(FakeMesh(), tmp_path)
    bearer = {"authorization": "Bearer ad-boss"}
    await post(app, CHAT, TALK)
    await get(app, "/v1/models", host="elsewhere.example")
    await get(app, "/made/up/1", **bearer)
    await get(app, "/made/up/2", **bearer)
    await post(app, CHAT, {}, **bearer)
    found = await exposed(app, **bearer)
    refused = ((CHAT, 401), ("/v1/models", 421), ("other", 404), (CHAT, 400))
    assert [found.requests(*each) for each in refused] == [1, 1, 2, 1]


@pytest.mark.parametrize(("end", "status"), [("whole", 200), ("fails", 503), ("left", 499)])
async def test_a_stream_counts_when_it_has_ended_and_as_it_ended(
    end: str, status: int, eventually: Eventually
) -> None:
    gate = asyncio.Event()
    fault = RequestFailedError("unavailable", "the coordinator was lost")
    rest = [fault] if end == "fails" else [tokens("b", 1), finished(2)]
    app = app_of(FakeMesh([started(), tokens("a", 0), gate, *rest]))
    stream = Call(app, "POST", CHAT, {**TALK, "stream": True})
    running = stream.start()
    await eventually(lambda: stream.parts)
    found = await exposed(app)
    assert found.requests(CHAT, status) is None
    if end == "left":
        stream.leave()
    else:
        gate.set()
    await running
    assert stream.status == 200
    found = await exposed(app)
    assert found.requests(CHAT, status) == 1
