"""Figures of runs in turns as values and cells of a result. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import median

from bench.load.figures import Figures
from bench.pairs import paired_ratio
from bench.results.schema import Cell, Value

_METRICS: tuple[tuple[str, str, Callable[[Figures], float]], ...] = (
    ("tokens/s", "1/s", lambda f: f.tokens_per_s),
    ("decode tokens/s", "1/s", lambda f: f.decode_tokens_per_s),
    ("first token p50", "s", lambda f: f.first_token.p50),
    ("first token p95", "s", lambda f: f.first_token.p95),
    ("first token p99", "s", lambda f: f.first_token.p99),
    ("time a token p50", "s", lambda f: f.each_token.p50),
    ("time a token p95", "s", lambda f: f.each_token.p95),
    ("time a token p99", "s", lambda f: f.each_token.p99),
    ("goodput", "requests/s", lambda f: f.goodput_per_s),
    ("processor time a token", "s", lambda f: f.cpu_s_per_token),
)
# Metrics of ratios; in each of them more is better.
_COMPARED = ("tokens/s", "decode tokens/s")


def cells_of(
    suite: str,
    place: str,
    names: Sequence[str],
    turns: Sequence[Sequence[Figures | None]],
    ours: Sequence[str],
) -> list[Cell]:
    """Return a cell for each system, and one with ratios for each pair of our system and another.

    turns: figures of each turn, in the order of names; None if a system had no turn. ours: our
    systems; each is compared with all systems except itself and those before it in `ours`.
    """
    by_name = {name: [turn[k] for turn in turns] for k, name in enumerate(names)}
    cells = []
    for name, figures in by_name.items():
        present = [each for each in figures if each is not None]
        notes = []
        if num_failed := sum(each.num_failed for each in present):
            notes.append(f"{num_failed} of {sum(each.num_requests for each in present)} failed")
        if len(present) < len(figures):
            notes.append(f"{len(present)} of {len(figures)} turns")
        values = tuple(_values(present))
        cells.append(
            Cell(suite=suite, place=place, system=name, values=values, note="; ".join(notes))
        )
    for place_of_own, own in enumerate(ours):
        for name in names if own in by_name else ():
            if name not in ours[: place_of_own + 1]:
                ratios = tuple(_ratios(by_name[name], by_name[own]))
                pair = Cell(suite=suite, place=place, system=own, reference=name, ratios=ratios)
                cells.append(pair)
    return cells


def _values(figures: Sequence[Figures]) -> Iterator[Value]:
    for metric, unit, of in _METRICS:
        found = [of(each) for each in figures]
        known = [value for value in found if math.isfinite(value) and value > 0]
        if known:
            low, high = (min(known), max(known)) if len(known) > 1 else (None, None)
            yield Value(metric=metric, unit=unit, value=median(known), low=low, high=high)


def _ratios(reference: Sequence[Figures | None], own: Sequence[Figures | None]) -> Iterator[Value]:
    both = [(a, b) for a, b in zip(reference, own, strict=True) if a is not None and b is not None]
    for metric, _, of in _METRICS:
        if metric not in _COMPARED:
            continue
        pairs = [(of(a), of(b)) for a, b in both]
        pairs = [pair for pair in pairs if min(pair) > 0]
        if pairs:
            found = paired_ratio(pairs)
            yield Value(metric=metric, unit="x", value=found.median, low=found.low, high=found.high)
