"""Kill and stop the processes of a fleet at random while requests run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

from bench.chaos.kills.backdrop import Backdrop, Run, backdrop
from bench.harness.cases import Case
from bench.harness.history import Tally

# The share of blows that begin with SIGSTOP, and how long that lasts.
_STOP_SHARE = 0.2
_STOP_S = (0.1, 6.0)
_PAUSE_S = (0.05, 0.5)
_TELL_EVERY = 50


async def run_storm(
    run: Run,
    cases: Sequence[Case],
    *,
    num_kills: float = float("inf"),
    roles: Sequence[str] = ("draft", "target", "coordinator"),
    mean_gap_s: float = 0.25,
) -> Tally:
    """Kill processes of some roles until num_kills were killed or the requests of the run ended."""
    random = Random(run.seed)
    async with backdrop(run, cases) as scene:
        names = [name for name, role in scene.fleet.roles.items() if role in roles]
        dealing: dict[str, asyncio.Task[None]] = {}
        is_over = asyncio.Event()
        scene.load.on_done = is_over.set
        dealt = num_told = 0
        async with asyncio.TaskGroup() as group:
            while dealt < num_kills and not is_over.is_set():
                await asyncio.sleep(random.expovariate(1 / mean_gap_s))
                name, pause_s = random.choice(names), random.uniform(*_PAUSE_S)
                stop_s = random.uniform(*_STOP_S) if random.random() < _STOP_SHARE else 0.0
                goes_on = stop_s > 0.0 and random.random() < 0.5
                # A process that has not recovered from a blow is left alone.
                if (name in dealing and not dealing[name].done()) or is_over.is_set():
                    continue
                dealt += not goes_on
                blow = _deal(scene, name, stop_s, pause_s, goes_on=goes_on)
                dealing[name] = group.create_task(blow)
                if dealt >= num_told + _TELL_EVERY:
                    num_told, tally = dealt, scene.tally
                    run.tell(f"{dealt} kills, {tally.num_requests} requests: {tally.verdict()}")
    return scene.tally


async def _deal(
    scene: Backdrop, name: str, stop_s: float, pause_s: float, *, goes_on: bool
) -> None:
    """Kill or stop a process; returns when it runs again.

    stop_s: duration of SIGSTOP, 0.0 for an immediate kill. goes_on: SIGCONT follows instead of a
    kill. pause_s: time from the kill to the next start.
    """
    fleet, counts = scene.fleet, scene.tally.disturbances
    role = fleet.roles[name]
    if stop_s:
        fleet.stop(name)
        await asyncio.sleep(stop_s)
    if goes_on:
        counts[f"{role} stopped for a while"] += 1
        fleet.go_on(name)
    else:
        counts[f"{role} stopped, then killed" if stop_s else f"{role} killed"] += 1
        await fleet.kill(name)
        await asyncio.sleep(pause_s)
        await fleet.start(name)
