"""`python -m bench air`: check the emulated radio cell against closed forms."""

from __future__ import annotations

import asyncio
from typing import get_args

import click

from bench.emulate.check import run_check
from bench.emulate.open import Means
from bench.harness.options import at_least
from bench.harness.report import conclude
from bench.netns import NamespacesError


@click.command("air")
@at_least("--repeats", 12)
@click.option(
    "--slowest-kbps",
    type=click.FloatRange(0, min_open=True),
    default=50.0,
    show_default=True,
    help="Lowest of rates 1 : 4 : 10.",
)
@click.option(
    "--frame-ms",
    type=click.FloatRange(0),
    default=2.0,
    show_default=True,
    help="Fixed airtime of a frame.",
)
@click.option("--means", default="auto", show_default=True, type=click.Choice(get_args(Means)))
def air_command(repeats: int, slowest_kbps: float, frame_ms: float, means: Means) -> None:
    """Send batches from three stations over one emulated cell; compare times with closed forms.

    \b
    Example:
      python -m bench air --repeats 20
    """
    try:
        found = asyncio.run(run_check(slowest_kbps * 1e3, frame_ms / 1e3, repeats, means))
    except NamespacesError as error:
        raise click.ClickException(str(error)) from error
    conclude(found)
