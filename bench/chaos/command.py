"""`python -m bench chaos`: check how a mesh of real processes behaves under faults."""

from __future__ import annotations

import asyncio
import logging
import sys
import tomllib
from pathlib import Path
from random import Random
from typing import Any

import click

from bench.harness.options import Decorator, at_least, names_option, seed_option
from bench.harness.report import Findings, conclude, note

ROLES = ("draft", "target", "coordinator")
RESTARTED = ("draft", "target", "gateway", "coordinator")
SEEDS = Path(__file__).parent / "kills" / "seeds.toml"


@click.group("chaos")
def chaos() -> None:
    """Run real processes under kills, stops and fail points, and check every request.

    \b
    Example:
      python -m bench chaos kills --kills 50 --streams 8
    """
    # Here coordinators are lost on purpose: warnings about it would hide the output.
    logging.basicConfig(level=logging.ERROR)


_roles = names_option("--roles", ROLES, "Roles whose processes are killed or stopped.")
_stops = click.option(
    "--stops",
    "stop_share",
    default=0.2,
    show_default=True,
    help="Share of faults that begin with SIGSTOP.",
)


def _mean_gap(default: float) -> Decorator:
    return click.option(
        "--mean-gap-s", default=default, show_default=True, help="Mean time between two faults."
    )


def _deadline(default: float) -> Decorator:
    return click.option(
        "--deadline-s", default=default, show_default=True, help="Deadline of each request."
    )


@chaos.command("kills")
@at_least("--kills", 1000)
@at_least("--streams", 16)
@seed_option
@_roles
@_mean_gap(0.25)
@_stops
@_deadline(60.0)
@click.option("--real", is_flag=True, help="Use SmolLM2 and its draft instead of toy models.")
def kills_command(
    kills: int, streams: int, seed: int, deadline_s: float, *, real: bool, **faults: Any
) -> None:
    """Kill and stop processes at random while streams run; exit code 1 if any text is wrong.

    \b
    Example:
      python -m bench chaos kills --kills 200 --roles coordinator --seed 7
    """
    from bench.chaos.kills.backdrop import Run
    from bench.chaos.kills.storm import run_storm
    from bench.harness.cases import real_cases, toy_cases
    from bench.harness.fleet import Setup
    from nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET

    drawing = Random(seed + 2)
    cases = real_cases(drawing, 24) if real else toy_cases(drawing, 256)
    setup = Setup(target_model=DEFAULT_TARGET, draft_model=DEFAULT_DRAFT) if real else Setup()
    run = Run(seed=seed, num_streams=streams, deadline_s=deadline_s, setup=setup, tell=note)
    conclude(asyncio.run(run_storm(run, cases, num_kills=kills, **faults)))


@chaos.command("many")
@at_least("--requests", 100_000)
@at_least("--streams", 64)
@seed_option
@_roles
@_mean_gap(1.0)
@_stops
@_deadline(30.0)
def many_command(requests: int, streams: int, seed: int, deadline_s: float, **faults: Any) -> None:
    """Run many short requests under kills; none may be late, or be cut and called finished.

    \b
    Example:
      python -m bench chaos many --requests 1000
    """
    from bench.chaos.kills.backdrop import Run
    from bench.chaos.kills.storm import run_storm
    from bench.harness.cases import toy_cases

    run = Run(
        seed=seed, num_streams=streams, num_requests=requests, deadline_s=deadline_s, tell=note
    )
    cases = toy_cases(Random(seed + 2), 512, mean_tokens=4.0)
    conclude(asyncio.run(run_storm(run, cases, **faults)))


@chaos.command("zombies")
@at_least("--cycles", 100)
@at_least("--streams", 8)
@seed_option
@_roles
@_deadline(60.0)
def zombies_command(
    cycles: int, streams: int, seed: int, roles: list[str], deadline_s: float
) -> None:
    """Stop processes until the mesh takes them for dead, and then let them go on.

    \b
    Example:
      python -m bench chaos zombies --cycles 10
    """
    from bench.chaos.kills.backdrop import Run
    from bench.chaos.kills.zombies import HEARTBEATS, run_zombies
    from bench.harness.fleet import Setup

    names = [role if role == "coordinator" else f"{role}-0" for role in roles]
    setup = Setup(environ=HEARTBEATS)
    run = Run(seed=seed, num_streams=streams, deadline_s=deadline_s, setup=setup, tell=note)
    conclude(asyncio.run(run_zombies(run, cycles, names)))


@chaos.command("points")
@at_least("--repeats", 20, "Runs of each point.")
@click.option("--points", "places", default="", help="Only these points, separated by commas.")
@click.option("--actions", default="", help="Only some of kill, error, stop, block:SECONDS.")
@at_least("--streams", 8)
@seed_option
@names_option(
    "--roles",
    ("draft", "target", "client", "coordinator"),
    "Roles whose fail points are run.",
)
@_deadline(60.0)
def points_command(
    repeats: int,
    places: str,
    actions: str,
    streams: int,
    seed: int,
    roles: list[str],
    deadline_s: float,
) -> None:
    """Run every fail point many times: a process dies, stops, hangs or fails at a named place.

    \b
    Example:
      python -m bench chaos points --points send.CommitReply --repeats 6
    """
    from bench.chaos.kills.backdrop import Run
    from bench.chaos.kills.points import ACTIONS, points_of, run_points

    points = points_of(roles)
    if places:
        wanted = places.split(",")
        if unknown := set(wanted) - {point.place for point in points}:
            known = ", ".join(sorted({point.place for point in points}))
            names = ", ".join(sorted(unknown))
            raise click.UsageError(f"--points: unknown point {names!r}; accepted are {known}")
        points = [point for point in points if point.place in wanted]
    run = Run(seed=seed, num_streams=streams, deadline_s=deadline_s, tell=note)
    chosen = actions.split(",") if actions else ACTIONS
    conclude(asyncio.run(run_points(run, points, repeats, chosen)))


@chaos.command("seeds")
@click.pass_context
def seeds_command(context: click.Context) -> None:
    """Repeat the runs that once went wrong; exit code 1 if any goes wrong again.

    \b
    Example:
      python -m bench chaos seeds
    """
    group = context.parent.command if context.parent is not None else chaos
    runs = tomllib.loads(SEEDS.read_text())["seed"]
    wrong = []
    for run in runs:
        said = f"{' '.join(run['command'])}\n  {run['was']}"
        note(said)
        try:
            group.main(args=run["command"], prog_name="chaos", standalone_mode=False)
        except SystemExit as ended:
            if ended.code:
                wrong.append(said)
    click.echo(f"{len(runs)} runs that once went wrong, {len(wrong)} go wrong again")
    for said in wrong:
        click.echo(f"WRONG: {said}")
    sys.exit(1 if wrong else 0)


@chaos.command("up")
@at_least("--kills", 20)
@click.option("--gap-s", default=15.0, show_default=True, help="Time from one kill to the next.")
@at_least("--streams", 4)
@seed_option
@click.option("--toy", is_flag=True, help="Use toy models instead of the default pair.")
def up_command(kills: int, gap_s: float, streams: int, seed: int, *, toy: bool) -> None:
    """Kill the target of `airdraft up` repeatedly while the OpenAI client sends requests.

    \b
    Example:
      python -m bench chaos up --kills 3 --gap-s 5
    """
    from bench.chaos.up import run_up
    from bench.harness.cases import plain_toy_cases, real_cases
    from bench.harness.up import TOYS

    cases = (plain_toy_cases if toy else real_cases)(Random(seed), 24)
    found = asyncio.run(
        run_up(
            TOYS if toy else (),
            cases,
            num_kills=kills,
            gap_s=gap_s,
            num_streams=streams,
            seed=seed,
            note=note,
        )
    )
    for line in found.told:
        note(f"up: {line}")
    conclude(found)


@chaos.command("rolling")
@at_least("--rounds", 100)
@at_least("--streams", 8)
@names_option("--roles", RESTARTED, "Roles to restart; each round restarts one process of each.")
@seed_option
@_deadline(120.0)
def rolling_command(
    rounds: int, streams: int, roles: list[str], seed: int, deadline_s: float
) -> None:
    """Restart every role by SIGTERM under load; every text must be whole and without error.

    The mesh has two targets, a draft node and two gateways with toy engines. Clients that are cut
    off continue at the other gateway with Idempotency-Key and Last-Event-ID.

    \b
    Example:
      python -m bench chaos rolling --rounds 5 --roles draft,target,gateway
    """
    from bench.chaos.rolling.rounds import run_rolling

    conclude(
        asyncio.run(
            run_rolling(
                rounds, roles, seed=seed, num_streams=streams, deadline_s=deadline_s, note=note
            )
        )
    )


@chaos.command("detect")
@at_least("--repeats", 20)
@names_option(
    "--over",
    ("tcp-keys", "tcp", "ipc"),
    "Transports; tcp has no keys.",
    default="tcp-keys,ipc",
)
@names_option("--faults", ("killed", "stopped", "blocked"), "What happens to processes.")
@names_option("--who", ("members", "coordinator"), "Processes that suffer faults.")
def detect_command(repeats: int, over: list[Any], faults: list[str], who: list[str]) -> None:
    """Measure how soon a dead member or coordinator is noticed, and how soon it is back.

    \b
    Example:
      python -m bench chaos detect --repeats 3 --over ipc --faults killed
    """
    from bench.chaos.detect import HEAD, detect

    all_found = Findings()
    for link in over:
        click.echo(f"{link}\n{HEAD}")
        for side in who:
            found = asyncio.run(detect(side, link, faults, repeats))
            click.echo("\n".join(found.lines))
            all_found.faults += found.faults
    conclude(all_found)
