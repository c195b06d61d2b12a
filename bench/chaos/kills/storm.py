"""`python -m bench chaos kills`: kill and stop processes at random while requests run."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import click

from airdraft.nodes.catalog import DEFAULT_DRAFT
from bench.chaos.kills.backdrop import Backdrop, Run, backdrop, run_option
from bench.harness.cases import Case, real_cases, toy_cases
from bench.harness.fleet import Setup
from bench.harness.history import Tally
from bench.harness.report import conclude, note
from bench.options import at_least, names_option

ROLES = ("draft", "target", "coordinator")
# The share of blows that begin with SIGSTOP, and how long that lasts.
_STOP_SHARE = 0.2
_STOP_S = (0.1, 6.0)
_PAUSE_S = (0.05, 0.5)
_TELL_EVERY = 50


@click.command("kills")
@at_least("--kills", 1000)
@click.option(
    "--requests",
    type=click.IntRange(1),
    help="Send so many requests, and short ones, however many kills these take.",
)
@names_option("--roles", ROLES, "Roles whose processes are killed or stopped.")
@at_least("--mean-gap-s", 0.25, "Mean time between two faults.")
@click.option("--target", "model", help="A name or a GGUF file, instead of toy models.")
@click.option("--draft", default=DEFAULT_DRAFT, help="Draft model beside such a target.")
@run_option(16)
def kills_command(
    run: Run,
    kills: int,
    requests: int | None,
    roles: list[str],
    mean_gap_s: float,
    model: str | None,
    draft: str,
) -> None:
    """Kill and stop processes at random while streams run; exit code 1 if any text is wrong.

    Half of the stopped processes go on by themselves, some of them after they were taken for dead.

    \b
    Examples:
      python -m bench chaos kills --kills 200 --roles coordinator --seed 7
      python -m bench chaos kills --requests 100000 --streams 64 --mean-gap-s 1
    """
    drawing = Random(run.seed + 2)
    if model is not None:
        cases = real_cases(drawing, 24, model)
        run = replace(run, setup=Setup(target_model=model, draft_model=draft))
    else:
        cases = toy_cases(drawing, 256) if requests is None else toy_cases(drawing, 512, 4.0)
    num_kills = kills if requests is None else float("inf")
    run = replace(run, num_requests=requests)
    conclude(asyncio.run(run_storm(run, cases, num_kills, roles, mean_gap_s)))


async def run_storm(
    run: Run,
    cases: Sequence[Case],
    num_kills: float = float("inf"),
    roles: Sequence[str] = ROLES,
    mean_gap_s: float = 0.25,
) -> Tally:
    """Kill processes of some roles until num_kills were killed or the requests of the run ended."""
    random = Random(run.seed)
    async with backdrop(run, cases) as scene:
        names = [name for name, role in scene.fleet.roles.items() if role in roles]
        dealing: dict[str, asyncio.Task[None]] = {}
        dealt = num_noted = 0
        async with asyncio.TaskGroup() as group:
            while dealt < num_kills and not scene.load.done():
                await asyncio.sleep(random.expovariate(1 / mean_gap_s))
                name, pause_s = random.choice(names), random.uniform(*_PAUSE_S)
                stop_s = random.uniform(*_STOP_S) if random.random() < _STOP_SHARE else 0.0
                goes_on = stop_s > 0.0 and random.random() < 0.5
                # A process that has not recovered from a blow is left alone.
                if name in dealing and not dealing[name].done():
                    continue
                dealt += not goes_on
                blow = _deal(scene, name, stop_s, pause_s, goes_on=goes_on)
                dealing[name] = group.create_task(blow)
                if dealt >= num_noted + _TELL_EVERY:
                    num_noted = dealt
                    note(f"{dealt} kills, {scene.tally.progress()}")
    return scene.tally


async def _deal(
    scene: Backdrop, name: str, stop_s: float, pause_s: float, *, goes_on: bool
) -> None:
    """Kill or stop a process; returns when it runs again.

    stop_s: duration of SIGSTOP, 0.0 for an immediate kill. goes_on: SIGCONT follows instead of a
    kill. pause_s: time from the kill to the next start.
    """
    fleet, counts = scene.fleet, scene.tally.disturbances
    role, process = fleet.roles[name], fleet.process(name)
    if stop_s:
        process.signal(signal.SIGSTOP)
        await asyncio.sleep(stop_s)
    if goes_on:
        counts[f"{role} stopped for a while"] += 1
        process.signal(signal.SIGCONT)
    else:
        counts[f"{role} stopped, then killed" if stop_s else f"{role} killed"] += 1
        await fleet.kill(name)
        await asyncio.sleep(pause_s)
        await fleet.start(name)
