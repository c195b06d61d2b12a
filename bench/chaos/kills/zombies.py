"""Stop processes until the mesh takes them for dead, and then let them go on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from bench.chaos.cases import toy_cases
from bench.chaos.fleet.fleet import Setup
from bench.chaos.fleet.keys import COORDINATOR
from bench.chaos.kills.backdrop import Backdrop, backdrop
from bench.chaos.report import Tally
from nodes.client.client import RequestFailedError

_POLL_S = 0.05
_LIMIT_S = 120.0
# Short timeouts, so that a hundred cycles do not take an hour.
_HEARTBEATS = {
    "AIRDRAFT_HEARTBEAT_INTERVAL_S": "0.2",
    "AIRDRAFT_HEARTBEAT_TIMEOUT_S": "1.0",
}
_NUM_CASES = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Zombies:
    """Parameters of a run. names: the processes that are stopped, in turn."""

    seed: int
    num_cycles: int
    names: tuple[str, ...] = ("target-0", "draft-0", COORDINATOR)
    num_streams: int = 8
    deadline_s: float = 60.0
    setup: Setup = field(default_factory=lambda: Setup(environ=_HEARTBEATS))
    folder: Path = Path()


async def run_zombies(zombies: Zombies, tell: Callable[[str], None] = lambda _line: None) -> Tally:
    """Stop and wake processes under load.

    Messages of awakened processes must be counted as stale or dropped, and must change nothing.
    """
    random = Random(zombies.seed)
    tally = Tally(zombies.seed, zombies.folder)
    cases = toy_cases(random, _NUM_CASES)
    behind = backdrop(
        zombies.setup,
        cases,
        tally,
        num_streams=zombies.num_streams,
        deadline_s=zombies.deadline_s,
    )
    async with behind as scene:
        for cycle in range(zombies.num_cycles):
            name = zombies.names[cycle % len(zombies.names)]
            await asyncio.sleep(random.uniform(0.1, 0.5))
            try:
                await _sleep_and_wake(scene, name, random.uniform(0.0, 1.0))
            except TimeoutError:
                tally.wrong("stuck", f"{name} was not lost and back within {_LIMIT_S:g} s")
            tally.disturbances[f"{scene.fleet.roles[name]} taken for dead, then awake"] += 1
            if cycle % 10 == 9:
                tell(f"{cycle + 1} cycles, {tally.num_requests} requests")
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
    async with asyncio.timeout(_LIMIT_S):
        if name == COORDINATOR:
            await fleet.wait_for(scene.looking)
        else:
            await fleet.wait_for(scene.looking, name)


async def _is_in(scene: Backdrop, name: str) -> bool:
    if name == COORDINATOR:
        return scene.looking.is_joined
    with contextlib.suppress(RequestFailedError):
        reply = await scene.looking.nodes()
        return scene.fleet.node(name) in {node.node for node in reply.nodes}
    return True
