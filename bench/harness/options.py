"""Options that commands of several suites have."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import Any

import click

from bench.harness.report import note

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Names(click.ParamType[list[str]]):
    """Names of a set, separated by commas."""

    name = "names"

    def __init__(self, known: Collection[str]) -> None:
        self._known = list(known)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        if not isinstance(value, str):
            return list(value)
        chosen = value.split(",")
        if unknown := [name for name in chosen if name not in self._known]:
            self.fail(f"unknown {unknown[0]!r}; accepted are {', '.join(self._known)}", param, ctx)
        return chosen


def names_option(flag: str, known: Collection[str], help: str, **more: Any) -> Decorator:
    """Return an option with some names of a set; by default all of them."""
    settings = {"default": ",".join(known), "show_default": True, **more}
    return click.option(flag, type=Names(known), help=help, **settings)


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
