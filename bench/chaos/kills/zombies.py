"""Stop processes until the mesh takes them for dead, and then let them go on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from random import Random
from typing import Final

from bench.chaos.kills.backdrop import Backdrop, Run, backdrop
from bench.harness.cases import toy_cases
from bench.harness.fleet import COORDINATOR
from bench.harness.tally import Tally
from nodes.client.client import RequestFailedError

_POLL_S = 0.05
_LIMIT_S = 120.0
# Short timeouts, so that a hundred cycles do not take an hour.
HEARTBEATS: Final = {
    "AIRDRAFT_HEARTBEAT_INTERVAL_S": "0.2",
    "AIRDRAFT_HEARTBEAT_TIMEOUT_S": "1.0",
}
_NUM_CASES = 128


async def run_zombies(run: Run, num_cycles: int, names: Sequence[str]) -> Tally:
    """Stop and wake processes under load, in turn. The setup should have HEARTBEATS.

    Messages of awakened processes must be counted as stale or dropped, and must change nothing.
    """
    random = Random(run.seed)
    async with backdrop(run, toy_cases(random, _NUM_CASES)) as scene:
        tally = scene.tally
        for cycle in range(num_cycles):
            name = names[cycle % len(names)]
            await asyncio.sleep(random.uniform(0.1, 0.5))
            try:
                await _sleep_and_wake(scene, name, random.uniform(0.0, 1.0))
            except TimeoutError:
                tally.wrong("stuck", f"{name} was not lost and back within {_LIMIT_S:g} s")
            tally.disturbances[f"{scene.fleet.roles[name]} taken for dead, then awake"] += 1
            if cycle % 10 == 9:
                run.tell(f"{cycle + 1} cycles, {tally.num_requests} requests")
    if not tally.num_stale + tally.num_dropped:
        tally.wrong("nothing stale", "no message of an awakened process arrived")
    return tally


async def _sleep_and_wake(scene: Backdrop, name: str, longer_s: float) -> None:
    fleet = scene.fleet
    fleet.stop(name)
    try:
        async with asyncio.timeout(_LIMIT_S):
            is_in = True
            while is_in:
                await asyncio.sleep(_POLL_S)
                is_in = await _is_in(scene, name)
            await asyncio.sleep(longer_s)
    finally:
        fleet.go_on(name)
    names = () if name == COORDINATOR else (name,)
    await fleet.wait_for(scene.looking, *names, limit_s=_LIMIT_S)


async def _is_in(scene: Backdrop, name: str) -> bool:
    if name == COORDINATOR:
        return scene.looking.is_joined
    with contextlib.suppress(RequestFailedError):
        reply = await scene.looking.nodes()
        return scene.fleet.node(name) in {node.node for node in reply.nodes}
    return True
