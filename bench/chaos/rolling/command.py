"""`python -m bench chaos rolling`."""

from __future__ import annotations

import random
import sys

import click

ROLES = ("draft", "target", "gateway", "coordinator")


def _roles_of(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[str, ...]:
    roles = tuple(text.split(","))
    if set(roles) - set(ROLES):
        raise click.BadParameter(f"{text}: some of {', '.join(ROLES)} are accepted")
    return roles


@click.command("rolling")
@click.option("--rounds", type=click.IntRange(1), default=100, show_default=True)
@click.option("--streams", type=click.IntRange(1), default=8, show_default=True)
@click.option(
    "--roles",
    default=",".join(ROLES),
    show_default=True,
    callback=_roles_of,
    help="Restarted, one process of each in a round.",
)
@click.option("--seed", type=int, help="Of what happens when; a drawn one is printed.")
@click.option("--deadline-s", default=120.0, show_default=True, help="Of a request.")
def rolling_command(
    rounds: int, streams: int, roles: tuple[str, ...], seed: int | None, deadline_s: float
) -> None:
    """Restart every role by SIGTERM while clients ask: every text whole, no error.

    Two targets, a draft node and two gateways with toy engines. Clients that are cut off go on at
    the other gateway with Idempotency-Key and Last-Event-ID.

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
