from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from nodes.client.client import RequestFailedError
from nodes.gateway.models import Looking
from nodes.telemetry.status import Status, encode_status
from tests.nodes.gateway.calls import get, keyed_app
from tests.nodes.gateway.fake_mesh import Clock, FakeMesh
from tests.nodes.status_examples import STATUS


class Held(FakeMesh):
    """Answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def status(self) -> Status:
        await self.gate.wait()
        return await super().status()


async def test_all_who_look_are_shown_one_status() -> None:
    mesh, clock = FakeMesh(), Clock()
    looking = Looking(mesh, clock)
    assert await asyncio.gather(*(looking.status() for _ in range(20))) == [STATUS] * 20
    clock.now = 0.99
    await looking.status()
    assert mesh.num_status_requests == 1
    clock.now = 1.0
    await asyncio.gather(looking.status(), looking.document({}))
    assert mesh.num_status_requests == 2


async def test_who_leaves_takes_it_from_nobody_and_nothing_is_left_when_it_stops() -> None:
    mesh = Held()
    looking = Looking(mesh)
    first, second = (asyncio.create_task(looking.status()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    mesh.gate.set()
    assert await second == STATUS
    looking = Looking(Held())
    asking = asyncio.create_task(looking.status())
    await asyncio.sleep(0)
    await looking.stop()
    await asyncio.gather(asking, return_exceptions=True)
    assert asking.cancelled()
    await looking.stop()


async def test_without_a_coordinator_there_is_none_at_all() -> None:
    mesh, clock = FakeMesh(), Clock()
    looking = Looking(mesh, clock)
    await looking.status()
    mesh.is_joined = False
    for ask in (looking.status(), looking.document({})):
        with pytest.raises(RequestFailedError, match="cannot be reached"):
            await ask
    # The next coordinator's is another.
    mesh.is_joined = True
    await looking.status()
    assert mesh.num_status_requests == 2


async def test_a_fault_is_told_to_all_and_asked_for_again() -> None:
    mesh = FakeMesh(shown=RequestFailedError("internal", "not understood"))
    looking = Looking(mesh)
    found = await asyncio.gather(looking.status(), looking.status(), return_exceptions=True)
    assert found == [mesh.shown] * 2
    mesh.shown = STATUS
    assert await looking.status() == STATUS


async def test_the_document_has_the_last_minutes() -> None:
    mesh, clock = FakeMesh(), Clock()
    looking = Looking(mesh, clock)
    for second in range(4):
        clock.now = float(second)
        mesh.shown = replace(STATUS, at_s=STATUS.at_s + second)
        found = json.loads(await looking.document({"version": "1"}))
    assert found["status"] == json.loads(encode_status(mesh.shown))
    assert found["gateway"] == {"version": "1"}
    assert found["history"] == [[STATUS.at_s + second, 0.0, None] for second in (1, 2, 3)]


async def test_it_is_for_keys_with_the_scope_admin(tmp_path: Path) -> None:
    mesh = FakeMesh()
    app = keyed_app(mesh, tmp_path, max_concurrent=9)
    for path in ("/api/status", "/metrics"):
        assert (await get(app, path)).status == 401
        refused = await get(app, path, authorization="Bearer ad-guest")
        assert refused.status == 403
        assert "this API key lacks the scope 'admin'" in refused.json["error"]["message"]
    assert mesh.num_status_requests == 0
    call = await get(app, "/api/status", authorization="Bearer ad-looker")
    assert call.headers["content-type"] == "application/json"
    assert call.json["status"]["cluster"] == "airdraft"
    assert call.json["gateway"]["max_requests"] == 9
    mesh.is_joined = False
    call = await get(app, "/api/status", authorization="Bearer ad-looker")
    assert (call.status, call.headers["retry-after"]) == (503, "2")
