"""Kill and stop the processes of a fleet at random while requests run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from bench.chaos.kills.backdrop import Backdrop, Run, backdrop
from bench.harness.cases import Case
from bench.harness.tally import Tally

_STOP_S = (0.1, 6.0)
_PAUSE_S = (0.05, 0.5)
_TELL_EVERY = 50


@dataclass(frozen=True, slots=True)
class Blow:
    """One kill or stop of a process.

    after_s: time since the last blow. stop_s: duration of SIGSTOP, 0.0 for an immediate kill.
    goes_on: SIGCONT instead of a kill. pause_s: time from the kill to the next start.
    """

    name: str
    after_s: float
    stop_s: float
    goes_on: bool
    pause_s: float


def draw(random: Random, names: Sequence[str], mean_gap_s: float, stop_share: float) -> Blow:
    """Draw the next blow, always with the same number of draws, so that a seed repeats them."""
    after_s = random.expovariate(1 / mean_gap_s)
    name = random.choice(names)
    is_stop, stop_s = random.random() < stop_share, random.uniform(*_STOP_S)
    goes_on, pause_s = random.random() < 0.5, random.uniform(*_PAUSE_S)
    return Blow(name, after_s, stop_s if is_stop else 0.0, is_stop and goes_on, pause_s)


async def run_storm(
    run: Run,
    cases: Sequence[Case],
    *,
    num_kills: float = float("inf"),
    roles: Sequence[str] = ("draft", "target", "coordinator"),
    mean_gap_s: float = 0.25,
    stop_share: float = 0.2,
) -> Tally:
    """Kill processes of some roles until num_kills were killed or the requests of the run ended.

    stop_share: share of blows that begin with SIGSTOP.
    """
    random = Random(run.seed)
    async with backdrop(run, cases) as scene:
        names = [name for name, role in scene.fleet.roles.items() if role in roles]
        busy: set[str] = set()
        is_over = asyncio.Event()
        scene.load.on_done = is_over.set
        dealt = num_told = 0
        async with asyncio.TaskGroup() as group:
            while dealt < num_kills and not is_over.is_set():
                blow = draw(random, names, mean_gap_s, stop_share)
                await asyncio.sleep(blow.after_s)
                # A process that has not recovered from a blow is left alone.
                if blow.name not in busy and not is_over.is_set():
                    busy.add(blow.name)
                    dealt += not blow.goes_on
                    group.create_task(_deal(scene, blow, busy))
                if dealt >= num_told + _TELL_EVERY:
                    num_told, tally = dealt, scene.tally
                    run.tell(f"{dealt} kills, {tally.num_requests} requests: {tally.verdict()}")
    return scene.tally


async def _deal(scene: Backdrop, blow: Blow, busy: set[str]) -> None:
    """Deal a blow; returns when the process runs again."""
    fleet, name, counts = scene.fleet, blow.name, scene.tally.disturbances
    role = fleet.roles[name]
    if blow.stop_s:
        fleet.stop(name)
        await asyncio.sleep(blow.stop_s)
    if blow.goes_on:
        counts[f"{role} stopped for a while"] += 1
        fleet.go_on(name)
    else:
        counts[f"{role} stopped, then killed" if blow.stop_s else f"{role} killed"] += 1
        await fleet.kill(name)
        await asyncio.sleep(blow.pause_s)
        await fleet.start(name)
    busy.discard(name)
