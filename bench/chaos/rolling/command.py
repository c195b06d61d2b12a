"""`python -m bench chaos rolling`: restart every role in turn under load."""

from __future__ import annotations

import random
import sys

import click

ROLES = ("draft", "target", "gateway", "coordinator")


def _roles_of(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[str, ...]:
    roles = tuple(text.split(","))
    if set(roles) - set(ROLES):
        raise click.BadParameter(f"unknown role in {text!r}; accepted are {', '.join(ROLES)}")
    return roles


@click.command("rolling")
@click.option("--rounds", type=click.IntRange(1), default=100, show_default=True)
@click.option("--streams", type=click.IntRange(1), default=8, show_default=True)
@click.option(
    "--roles",
    default=",".join(ROLES),
    show_default=True,
    callback=_roles_of,
    help="Roles to restart; each round restarts one process of each.",
)
@click.option("--seed", type=int, help="Seed of requests and restarts; random by default, printed.")
@click.option("--deadline-s", default=120.0, show_default=True, help="Deadline of each request.")
def rolling_command(
    rounds: int, streams: int, roles: tuple[str, ...], seed: int | None, deadline_s: float
) -> None:
    """Restart every role by SIGTERM under load; every text must be whole and without error.

    The mesh has two targets, a draft node and two gateways with toy engines. Clients that are cut
    off continue at the other gateway with Idempotency-Key and Last-Event-ID.

    \b
    Example:
      python -m bench chaos rolling --rounds 5 --roles draft,target,gateway
    """
    from bench.chaos.rolling.rounds import run_rolling

    rolled = run_rolling(
        rounds,
        roles,
        seed=random.randrange(1 << 31) if seed is None else seed,
        num_streams=streams,
        deadline_s=deadline_s,
        note=lambda line: click.echo(line, err=True),
    )
    click.echo(str(rolled))
    sys.exit(1 if rolled.faults else 0)
