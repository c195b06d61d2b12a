"""`python -m bench chaos up`: kill the target of `airdraft up` under load."""

from __future__ import annotations

import asyncio
import random
import sys
from random import Random

import click

_NUM_CASES = 24


@click.command("up")
@click.option("--kills", type=click.IntRange(1), default=20, show_default=True)
@click.option("--gap-s", default=15.0, show_default=True, help="Time from one kill to the next.")
@click.option("--streams", type=click.IntRange(1), default=4, show_default=True)
@click.option("--seed", type=int, help="Seed of the requests; by default a random one, printed.")
@click.option("--toy", is_flag=True, help="Use toy models instead of the default pair.")
def up_command(kills: int, gap_s: float, streams: int, seed: int | None, *, toy: bool) -> None:
    """Kill the target of `airdraft up` repeatedly while the OpenAI client sends requests.

    \b
    Example:
      python -m bench chaos up --kills 3 --gap-s 5
    """
    from bench.chaos.fleet.real import real_cases
    from bench.chaos.up import TOYS, run_up
    from bench.chaos.up_asking import simple_toy_cases

    seed = random.randrange(1 << 31) if seed is None else seed
    click.echo(f"seed {seed}", err=True)
    cases = (simple_toy_cases if toy else real_cases)(Random(seed), _NUM_CASES)
    upheaval = asyncio.run(
        run_up(
            TOYS if toy else (),
            cases,
            num_kills=kills,
            gap_s=gap_s,
            num_streams=streams,
            seed=seed,
            note=lambda line: click.echo(line, err=True),
        )
    )
    for line in upheaval.lines:
        click.echo(f"up: {line}", err=True)
    click.echo(str(upheaval))
    sys.exit(1 if upheaval.faults else 0)
