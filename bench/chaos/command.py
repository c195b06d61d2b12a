"""`python -m bench chaos`: what a mesh of real processes does under faults."""

from __future__ import annotations

import asyncio
import random
import sys
from random import Random

import click

from bench.chaos.report import Tally

ROLES = ("draft", "target", "coordinator")


@click.group("chaos")
def chaos() -> None:
    """Real processes under kills, stops and fail points; every request is checked.

    \b
    Example:
      python -m bench chaos kills --kills 50 --streams 8
    """


def _roles_of(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[str, ...]:
    roles = tuple(text.split(","))
    if unknown := set(roles) - set(ROLES):
        what = ", ".join(sorted(unknown))
        raise click.BadParameter(f"{what or 'nothing'}: {', '.join(ROLES)} are accepted")
    return roles


_seed = click.option("--seed", type=int, help="Of what happens when; default a new one, printed.")
_roles = click.option(
    "--roles", default="draft,target", show_default=True, callback=_roles_of, help="Killed ones."
)


def _drawn(seed: int | None) -> int:
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
@click.option("--mean-gap-s", default=0.25, show_default=True, help="Between two blows.")
@click.option("--stops", default=0.2, show_default=True, help="Share that begin with SIGSTOP.")
@click.option("--deadline-s", default=60.0, show_default=True, help="Of each request.")
@click.option("--real", is_flag=True, help="SmolLM2 and its draft in the place of toys.")
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
    """Random kills and stops of real processes while streams run; exit code 1 if any is wrong.

    \b
    Example:
      python -m bench chaos kills --kills 200 --roles draft,target --seed 7
    """
    from bench.chaos.cases import toy_cases
    from bench.chaos.fleet import Setup
    from bench.chaos.real import real_cases, real_setup
    from bench.chaos.storm import Storm, weather

    seed = _drawn(seed)
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
@click.option("--mean-gap-s", default=1.0, show_default=True, help="Between two blows.")
@click.option("--stops", default=0.2, show_default=True, help="Share that begin with SIGSTOP.")
@click.option("--deadline-s", default=30.0, show_default=True, help="Of each request.")
def many_command(
    requests: int,
    streams: int,
    seed: int | None,
    roles: tuple[str, ...],
    mean_gap_s: float,
    stops: float,
    deadline_s: float,
) -> None:
    """Very many short requests under kills: none late, none cut off and called finished.

    \b
    Example:
      python -m bench chaos many --requests 1000
    """
    from bench.chaos.cases import toy_cases
    from bench.chaos.storm import Storm, weather

    seed = _drawn(seed)
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
