"""Options that the commands of several measurements have."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from airdraft.nodes.catalog import Catalog, default_cache_dir
from airdraft.nodes.cli.options import FiniteRange
from airdraft.nodes.config.sources import environment
from bench.harness.report import note

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def listed(
    kind: Callable[[str], Any] = str,
    accepted: Callable[[], Iterable[Any]] | None = None,
    *,
    least: float | None = None,
    or_none: bool = False,
) -> Callable[[str], list[Any]]:
    """Returns an option's type: values with commas between them.

    accepted: returns the only ones. least: the smallest number that is accepted. or_none: whether
    an empty list means something; otherwise it is refused, because a run of nothing would look like
    one without faults.
    """

    def values(text: str) -> list[Any]:
        try:
            found = [kind(part) for part in text.split(",") if part]
        except ValueError:
            message = f"{text!r} is not a list of numbers with commas between them"
            raise click.BadParameter(message) from None
        known = list(accepted()) if accepted is not None else found
        if unknown := [each for each in found if each not in known]:
            names, usable = (", ".join(map(str, each)) for each in (unknown, known))
            raise click.BadParameter(f"unknown: {names}; use {usable}")
        if least is not None and not all(least <= each < math.inf for each in found):
            raise click.BadParameter(f"{text!r}: finite numbers of {least} or more are accepted")
        if not (found or or_none):
            raise click.BadParameter("the list is empty: give a value or leave the option out")
        return found

    return values


_LEAST = 0.001
COUNTS = listed(int, least=1)
NUMBERS = listed(float, least=_LEAST)


def model_file(name: str) -> Path:
    """Returns the file of a model by its name or path. It is downloaded if it is not here."""
    return Catalog(default_cache_dir(environment())).ensure(name)


def names_option(flag: str, known: Collection[str], help: str) -> Decorator:
    """Returns an option with some names of a set; by default all of them."""
    names, default = listed(accepted=lambda: known), ",".join(known)
    return click.option(flag, type=names, default=default, help=help)


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


def at_least(
    flag: str, default: float, help: str | None = None, *names: str, least: int | None = None
) -> Decorator:
    """Returns an option with a finite number of `least` or more, which is whole if the default is.

    names: that of its parameter, if it is another than the flag's. least: by default 1, or a
    thousandth if the number need not be whole.
    """
    number: click.ParamType[Any] = click.IntRange(1 if least is None else least)
    if isinstance(default, float):
        number = FiniteRange(_LEAST if least is None else least, math.inf, max_open=True)
    return click.option(flag, *names, type=number, default=default, help=help)


target_option = click.option("--target", default="smollm2-135m", help="A name or a GGUF file.")
draft_option = click.option(
    "--draft",
    default="",
    show_default="the catalogue's",
    help='Draft model, or "none"; "inside" or "inside:NAME" runs it in the target\'s process.',
)
# A rate is that of the tokens after the first.
max_tokens_option = at_least("--max-tokens", 128, least=2)
pairs_option = at_least("--pairs", 9, "Pairs of runs, A B then B A.")


def streams_option(default: str) -> Decorator:
    return click.option("--streams", type=COUNTS, default=default, help="Stream counts.")


def workloads_option(names: Sequence[str], default: str, help: str) -> Decorator:
    kinds = listed(accepted=lambda: names, or_none=not default)
    return click.option("--workloads", type=kinds, default=default, help=help)
