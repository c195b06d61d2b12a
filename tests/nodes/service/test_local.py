"""When a node that ended is started again; tests/nodes/test_restarts.py starts some."""

import asyncio
import errno
from typing import Any

import pytest

from airdraft.nodes.config.settings import TargetEngine
from airdraft.nodes.service.local import HEALTHY_S, WAITS_S, LocalMesh, Restarts


def test_a_node_that_was_well_in_the_mesh_for_a_while_begins_anew() -> None:
    deaths = Restarts()
    waits = [deaths.count_end(-9, 0.0, was_ready=True) for _ in range(3 * len(WAITS_S))]
    assert waits == [*WAITS_S, *WAITS_S[-1:] * 2 * len(WAITS_S)]
    assert deaths.count_end(-9, HEALTHY_S, was_ready=True) == WAITS_S[0]
    assert deaths.count_end(-9, HEALTHY_S - 0.1, was_ready=True) == WAITS_S[1]


@pytest.mark.parametrize("is_up", [True, False])
async def test_a_mesh_that_is_up_survives_that_no_process_can_be_started(
    is_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_arguments: Any, **_options: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refused)
    said: asyncio.Queue[str] = asyncio.Queue()
    mesh = LocalMesh("ipc:///nowhere", restarts=True, tell=said.put_nowait)
    mesh.is_up = is_up
    keeping = asyncio.create_task(mesh.keep("target", TargetEngine(model="toy:1")))
    if is_up:
        assert "no target node can be started" in await asyncio.wait_for(said.get(), 60)
        assert not keeping.done()
        keeping.cancel()
    with pytest.raises(asyncio.CancelledError if is_up else BlockingIOError):
        await keeping
