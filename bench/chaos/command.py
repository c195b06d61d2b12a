"""`python -m bench chaos`: check how a mesh of real processes behaves under faults."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from random import Random

import click

from bench.chaos.report import Tally

ROLES = ("draft", "target", "coordinator")


@click.group("chaos")
def chaos() -> None:
    """Run real processes under kills, stops and fail points, and check every request.

    \b
    Example:
      python -m bench chaos kills --kills 50 --streams 8
    """
    # Here coordinators are lost on purpose: warnings about it would hide the output.
    logging.basicConfig(level=logging.ERROR)


def _roles_of(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[str, ...]:
    roles = tuple(text.split(","))
    if unknown := set(roles) - set(ROLES):
        names = ", ".join(sorted(unknown))
        raise click.BadParameter(f"unknown role {names!r}; accepted are {', '.join(ROLES)}")
    return roles


_seed = click.option(
    "--seed", type=int, help="Seed of requests and faults; by default a random one, printed."
)
_roles = click.option(
    "--roles",
    default=",".join(ROLES),
    show_default=True,
    callback=_roles_of,
    help="Roles whose processes are killed or stopped, separated by commas.",
)


def _seed_or_random(seed: int | None) -> int:
    return random.randrange(1 << 31) if seed is None else seed


def _conclude(tally: Tally) -> None:
    click.echo(str(tally))
    if not tally.is_good:
        sys.exit(1)


def _note(line: str) -> None:
    click.echo(line, err=True)


@chaos.command("kills")
@click.option("--kills", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--streams", type=click.IntRange(1), default=16, show_default=True)
@_seed
@_roles
@click.option("--mean-gap-s", default=0.25, show_default=True, help="Mean time between two faults.")
@click.option(
    "--stops", default=0.2, show_default=True, help="Share of faults that begin with SIGSTOP."
)
@click.option("--deadline-s", default=60.0, show_default=True, help="Deadline of each request.")
@click.option("--real", is_flag=True, help="Use SmolLM2 and its draft instead of toy models.")
def kills_command(
    kills: int,
    streams: int,
    seed: int | None,
    roles: tuple[str, ...],
    mean_gap_s: float,
    stops: float,
    deadline_s: float,
    *,
    real: bool,
) -> None:
    """Kill and stop processes at random while streams run; exit code 1 if any text is wrong.

    \b
    Example:
      python -m bench chaos kills --kills 200 --roles coordinator --seed 7
    """
    from bench.chaos.cases import toy_cases
    from bench.chaos.fleet.fleet import Setup
    from bench.chaos.fleet.real import real_cases, real_setup
    from bench.chaos.kills.storm import Storm, weather

    seed = _seed_or_random(seed)
    _note(f"seed {seed}")
    drawing = Random(seed + 2)
    cases = real_cases(drawing, 24) if real else toy_cases(drawing, 256)
    storm = Storm(
        seed=seed,
        num_streams=streams,
        num_kills=kills,
        roles=roles,
        mean_gap_s=mean_gap_s,
        stop_share=stops,
        deadline_s=deadline_s,
        setup=real_setup() if real else Setup(),
    )
    _conclude(asyncio.run(weather(storm, cases, _note)))


@chaos.command("many")
@click.option("--requests", type=click.IntRange(1), default=100_000, show_default=True)
@click.option("--streams", type=click.IntRange(1), default=64, show_default=True)
@_seed
@_roles
@click.option("--mean-gap-s", default=1.0, show_default=True, help="Mean time between two faults.")
@click.option(
    "--stops", default=0.2, show_default=True, help="Share of faults that begin with SIGSTOP."
)
@click.option("--deadline-s", default=30.0, show_default=True, help="Deadline of each request.")
def many_command(
    requests: int,
    streams: int,
    seed: int | None,
    roles: tuple[str, ...],
    mean_gap_s: float,
    stops: float,
    deadline_s: float,
) -> None:
    """Run many short requests under kills; none may be late, or be cut and called finished.

    \b
    Example:
      python -m bench chaos many --requests 1000
    """
    from bench.chaos.cases import toy_cases
    from bench.chaos.kills.storm import Storm, weather

    seed = _seed_or_random(seed)
    _note(f"seed {seed}")
    storm = Storm(
        seed=seed,
        num_streams=streams,
        num_requests=requests,
        roles=roles,
        mean_gap_s=mean_gap_s,
        stop_share=stops,
        deadline_s=deadline_s,
    )
    cases = toy_cases(Random(seed + 2), 512, mean_tokens=4.0)
    _conclude(asyncio.run(weather(storm, cases, _note)))


@chaos.command("zombies")
@click.option("--cycles", type=click.IntRange(1), default=100, show_default=True)
@click.option("--streams", type=click.IntRange(1), default=8, show_default=True)
@_seed
@_roles
@click.option("--deadline-s", default=60.0, show_default=True, help="Deadline of each request.")
def zombies_command(
    cycles: int, streams: int, seed: int | None, roles: tuple[str, ...], deadline_s: float
) -> None:
    """Stop processes until the mesh takes them for dead, and then let them go on.

    \b
    Example:
      python -m bench chaos zombies --cycles 10
    """
    from bench.chaos.kills.zombies import Zombies, run_zombies

    seed = _seed_or_random(seed)
    _note(f"seed {seed}")
    names = {"draft": "draft-0", "target": "target-0"}
    zombies = Zombies(
        seed=seed,
        num_cycles=cycles,
        names=tuple(names.get(role, role) for role in roles),
        num_streams=streams,
        deadline_s=deadline_s,
    )
    _conclude(asyncio.run(run_zombies(zombies, _note)))


@chaos.command("points")
@click.option(
    "--repeats", type=click.IntRange(1), default=20, show_default=True, help="Runs of each point."
)
@click.option("--points", "places", default="", help="Only these points, separated by commas.")
@click.option("--actions", default="", help="Only some of kill, error, stop, block:SECONDS.")
@click.option("--streams", type=click.IntRange(1), default=8, show_default=True)
@_seed
@click.option(
    "--roles",
    default="draft,target,client,coordinator",
    show_default=True,
    help="Roles whose fail points are run.",
)
@click.option("--deadline-s", default=60.0, show_default=True, help="Deadline of each request.")
def points_command(
    repeats: int,
    places: str,
    actions: str,
    streams: int,
    seed: int | None,
    roles: str,
    deadline_s: float,
) -> None:
    """Run every fail point many times: a process dies, stops, hangs or fails at a named place.

    \b
    Example:
      python -m bench chaos points --points send.CommitReply --repeats 6
    """
    from bench.chaos.kills.points import ACTIONS, points_of, run_points

    seed = _seed_or_random(seed)
    _note(f"seed {seed}")
    points = points_of(roles.split(","))
    if places:
        wanted = places.split(",")
        if unknown := set(wanted) - {point.place for point in points}:
            known = ", ".join(sorted({point.place for point in points}))
            names = ", ".join(sorted(unknown))
            raise click.UsageError(f"--points: unknown point {names!r}; accepted are {known}")
        points = [point for point in points if point.place in wanted]
    tally = run_points(
        seed,
        points,
        repeats,
        num_streams=streams,
        deadline_s=deadline_s,
        actions=actions.split(",") if actions else ACTIONS,
        tell=_note,
    )
    _conclude(asyncio.run(tally))


@chaos.command("seeds")
def seeds_command() -> None:
    """Repeat the runs that once went wrong; exit code 1 if any goes wrong again.

    \b
    Example:
      python -m bench chaos seeds
    """
    from bench.chaos.kills.seeds import entries, run_again

    found = entries()
    wrong = run_again(chaos, found)
    click.echo(f"{len(found)} runs that once went wrong, {len(wrong)} go wrong again")
    for entry in wrong:
        click.echo(f"WRONG: {' '.join(entry.command)}: {entry.was}")
    if wrong:
        sys.exit(1)
