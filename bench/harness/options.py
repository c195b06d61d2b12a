"""Options that commands of several suites have."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import Any

import click

from bench.harness.report import note
from bench.results.options import listed

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def names_option(flag: str, known: Collection[str], help: str) -> Decorator:
    """Return an option with some names of a set; by default all of them."""
    names, default = listed(accepted=lambda: known), ",".join(known)
    return click.option(flag, type=names, default=default, show_default=True, help=help)


def _drawn(_context: click.Context, _parameter: click.Parameter, seed: int | None) -> int:
    seed = random.randrange(1 << 31) if seed is None else seed
    note(f"seed {seed}")
    return seed


seed_option = click.option(
    "--seed",
    type=int,
    callback=_drawn,
    help="Seed of requests and faults; by default a random one, printed.",
)


def at_least(flag: str, default: int, help: str | None = None) -> Decorator:
    """Return an option with a number of 1 or more."""
    return click.option(flag, type=click.IntRange(1), default=default, show_default=True, help=help)
