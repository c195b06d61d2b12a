"""`python -m bench chaos`: check how a mesh of real processes behaves under faults."""

from __future__ import annotations

import asyncio
import logging
from random import Random
from typing import Any

import click

from bench.chaos.endurance.command import COMMANDS as ENDURANCE
from bench.chaos.links.command import links_command, stalls_command, toxics_command
from bench.harness.options import Decorator, at_least, names_option, seed_option
from bench.harness.report import Findings, conclude, note
from bench.results.options import listed

ROLES = ("draft", "target", "coordinator")
RESTARTED = ("draft", "target", "gateway", "coordinator")


@click.group("chaos")
def chaos() -> None:
    """Run real processes under kills, stops and fail points, and check every request.

    \b
    Example:
      python -m bench chaos kills --kills 50 --streams 8
    """
    # Here coordinators are lost on purpose: warnings about it would hide the output.
    logging.basicConfig(level=logging.ERROR)


def _deadline(default: float) -> Decorator:
    return click.option(
        "--deadline-s", default=default, show_default=True, help="Deadline of each request."
    )


def _places() -> list[str]:
    from bench.chaos.kills.points import POINTS

    return sorted({point.place for point in POINTS})


@chaos.command("kills")
@at_least("--kills", 1000)
@at_least("--streams", 16)
@click.option(
    "--requests",
    type=click.IntRange(1),
    help="Send so many requests, and short ones, however many kills these take.",
)
@seed_option
@names_option("--roles", ROLES, "Roles whose processes are killed or stopped.")
@click.option("--mean-gap-s", default=0.25, show_default=True, help="Mean time between two faults.")
@click.option(
    "--stops",
    "stop_share",
    default=0.2,
    show_default=True,
    help="Share of faults that begin with SIGSTOP.",
)
@_deadline(60.0)
@click.option("--real", is_flag=True, help="Use SmolLM2 and its draft instead of toy models.")
def kills_command(
    kills: int,
    streams: int,
    requests: int | None,
    seed: int,
    deadline_s: float,
    *,
    real: bool,
    **faults: Any,
) -> None:
    """Kill and stop processes at random while streams run; exit code 1 if any text is wrong.

    Half of the stopped processes go on by themselves, some of them after they were taken for dead.

    \b
    Examples:
      python -m bench chaos kills --kills 200 --roles coordinator --seed 7
      python -m bench chaos kills --requests 100000 --streams 64 --mean-gap-s 1
    """
    from bench.chaos.kills.backdrop import Run
    from bench.chaos.kills.storm import run_storm
    from bench.harness.cases import real_cases, toy_cases
    from bench.harness.fleet import Setup
    from nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET

    drawing = Random(seed + 2)
    if real:
        cases = real_cases(drawing, 24)
        setup = Setup(target_model=DEFAULT_TARGET, draft_model=DEFAULT_DRAFT)
    else:
        cases = toy_cases(drawing, 256) if requests is None else toy_cases(drawing, 512, 4.0)
        setup = Setup()
    run = Run(
        seed=seed,
        num_streams=streams,
        num_requests=requests,
        deadline_s=deadline_s,
        setup=setup,
        tell=note,
    )
    num_kills = kills if requests is None else float("inf")
    conclude(asyncio.run(run_storm(run, cases, num_kills=num_kills, **faults)))


@chaos.command("points")
@at_least("--repeats", 20, "Runs of each point.")
@click.option(
    "--points",
    "places",
    type=listed(accepted=_places),
    default="",
    help="Only these points, separated by commas.",
)
@click.option(
    "--actions", type=listed(), default="", help="Only some of kill, error, stop, block:SECONDS."
)
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
    places: list[str],
    actions: list[str],
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

    points = [point for point in points_of(roles) if not places or point.place in places]
    run = Run(seed=seed, num_streams=streams, deadline_s=deadline_s, tell=note)
    conclude(asyncio.run(run_points(run, points, repeats, actions or ACTIONS)))


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


@chaos.command("soak")
@at_least("--requests", 100_000)
@at_least("--first", 10_000, "Requests before the first measurement.")
@at_least("--at-once", 16, "Concurrent requests.")
@seed_option
def soak_command(requests: int, first: int, at_once: int, seed: int) -> None:
    """Send short requests of every kind; check memory, files, threads and tasks of each process.

    \b
    Example:
      python -m bench chaos soak --requests 2000 --first 500
    """
    from bench.chaos.endurance.soak import run_soak

    first = min(first, requests)
    conclude(asyncio.run(run_soak(requests, first, at_once=at_once, seed=seed, tell=note)))


@chaos.command("detect")
@at_least("--repeats", 20)
@names_option(
    "--over",
    ("tcp-keys", "ipc", "tcp"),
    "Transports; tcp has no keys.",
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


for _command in (links_command, stalls_command, toxics_command, *ENDURANCE):
    chaos.add_command(_command)
