from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from nodes.client.client import RequestFailedError
from nodes.gateway.apikeys import ApiKey, ApiKeys, digest
from nodes.gateway.exposition import CONTENT_TYPE
from tests.nodes.gateway.calls import Call, gateway_of, get, open_app, post
from tests.nodes.gateway.fake_mesh import FakeMesh, finished, started, text_answer, tokens
from tests.nodes.telemetry.metrics.exposed import samples_of

CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "hi"}]}
Eventually = Callable[..., "asyncio.Future[None]"]


class Exposed:
    def __init__(self, samples: Mapping[Any, float]) -> None:
        self._samples = samples

    def __call__(self, name: str, **labels: str) -> float | None:
        return self._samples.get((name, frozenset(labels.items())))

    def requests(self, route: str, status: int) -> float | None:
        return self("airdraft_gateway_requests_total", route=route, status=str(status))


async def exposed(app: Any, **headers: str) -> Exposed:
    call = await get(app, "/metrics", **headers)
    assert call.headers["content-type"] == CONTENT_TYPE
    return Exposed(samples_of(call.body))


@pytest.mark.parametrize(
    ("path", "route", "status"),
    [
        ("/", "/", 200),
        ("/v1/models", "/v1/models", 200),
        ("/v1/models/dir/a", "/v1/models/{id}", 404),
        ("/v1/chat/completions/x", "/v1/chat/completions/{id}", 405),
        ("/v1/messages/count_tokens", "/v1/messages/count_tokens", 405),
        ("/v1/messages/count_tokens/x", "/v1/messages/{id}", 404),
        ("/v1", "other", 404),
    ],
)
async def test_routes(path: str, route: str, status: int, tmp_path: Path) -> None:
    app = open_app(gateway_of(FakeMesh()), tmp_path)
    assert (await get(app, path)).status == status
    assert (await exposed(app)).requests(route, status) == 1


async def test_the_mesh_and_the_gateway_in_one_answer(tmp_path: Path) -> None:
    app = open_app(gateway_of(FakeMesh(text_answer("a", "b", "c"))), tmp_path)
    await post(app, CHAT, ASK)
    found = await exposed(app)
    assert found("airdraft_coordinator_up") == 1
    assert found.requests(CHAT, 200) == 1
    assert found("airdraft_gateway_open_requests", route=CHAT) == 0
    assert found("airdraft_gateway_open_requests", route="/metrics") == 1
    for name in ("time_to_first_token", "time_per_output_token", "queue_wait"):
        assert found(f"airdraft_gateway_{name}_seconds_count") == 1
    assert found("airdraft_gateway_tokens_total", kind="prompt") == 3
    assert found("airdraft_gateway_tokens_total", kind="completion") == 3


async def test_without_a_coordinator_there_are_the_gateway_s_own(tmp_path: Path) -> None:
    mesh = FakeMesh()
    mesh.is_joined = False
    found = await exposed(open_app(gateway_of(mesh), tmp_path))
    assert found("airdraft_coordinator_up") == 0
    assert found("airdraft_gateway_open_streams") == 0


async def test_what_is_refused_is_counted_too(tmp_path: Path) -> None:
    app = open_app(gateway_of(FakeMesh()), tmp_path, is_open=False)
    ApiKeys(tmp_path / "apikeys.toml").add(
        ApiKey(name="boss", sha256=digest("ad-1"), scopes=("admin", "infer"))
    )
    bearer = {"authorization": "Bearer ad-1"}
    await post(app, CHAT, ASK)
    await get(app, "/v1/models", host="elsewhere.example")
    await get(app, "/made/up/1", **bearer)
    await get(app, "/made/up/2", **bearer)
    await post(app, CHAT, {}, **bearer)
    found = await exposed(app, **bearer)
    assert found.requests(CHAT, 401) == 1
    assert found.requests("/v1/models", 421) == 1
    assert found.requests("other", 404) == 2
    assert found.requests(CHAT, 400) == 1


async def test_a_stream_is_open_until_it_ends(tmp_path: Path, eventually: Eventually) -> None:
    gate = asyncio.Event()
    mesh = FakeMesh([started(), tokens("a", 0), gate, tokens("b", 1), finished(2)])
    app = open_app(gateway_of(mesh), tmp_path)
    call = Call(app, "POST", CHAT, {**ASK, "stream": True})
    running = call.start()
    await eventually(lambda: call.parts)
    found = await exposed(app)
    assert found("airdraft_gateway_open_streams") == 1
    assert found("airdraft_gateway_open_requests", route=CHAT) == 1
    gate.set()
    await running
    found = await exposed(app)
    assert found("airdraft_gateway_open_streams") == 0
    assert found.requests(CHAT, 200) == 1


async def test_how_a_stream_ended_counts_not_how_it_began(
    tmp_path: Path, eventually: Eventually
) -> None:
    fault = RequestFailedError("unavailable", "the coordinator was lost")
    app = open_app(gateway_of(FakeMesh([started(), tokens("a", 0), fault])), tmp_path)
    call = await post(app, CHAT, {**ASK, "stream": True})
    assert call.status == 200
    assert (await exposed(app)).requests(CHAT, 503) == 1
    app = open_app(gateway_of(FakeMesh([started(), tokens("a", 0), asyncio.Event()])), tmp_path)
    call = Call(app, "POST", CHAT, {**ASK, "stream": True})
    running = call.start()
    await eventually(lambda: call.parts)
    call.leave()
    await running
    found = await exposed(app)
    assert found.requests(CHAT, 499) == 1
    assert found("airdraft_gateway_open_streams") == 0
