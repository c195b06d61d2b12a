"""Runs in turns, A B then B A, and ratios of their pairs: a machine drifts less within a turn."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

T = TypeVar("T")

_NUM_SAMPLES = 4000


async def in_turns(
    num_turns: int,
    *sides: Callable[[int], Awaitable[T]],
    before: Callable[[int], Awaitable[None]] | None = None,
) -> list[tuple[T, ...]]:
    """Returns what the sides return in each turn. The first turn has their order, the next one the
    reverse, and so on. Sides are called with the number of the turn. before: called first in each
    turn."""
    found = []
    for turn in range(num_turns):
        if before is not None:
            await before(turn)
        numbers = range(len(sides))
        made = {k: await sides[k](turn) for k in (numbers[::-1] if turn % 2 else numbers)}
        found.append(tuple(made[k] for k in numbers))
    return found


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median of paired ratios. low, high: its 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def paired_ratio(pairs: Sequence[tuple[float, float]], seed: int = 1) -> Ratio:
    """Returns the ratio of the second number of each pair to the first.

    pairs: at least one pair of positive numbers.
    """
    ratios = [b / a for a, b in pairs]
    source = random.Random(seed)
    medians = sorted(median(source.choices(ratios, k=len(ratios))) for _ in range(_NUM_SAMPLES))
    return Ratio(
        median(ratios), medians[_NUM_SAMPLES // 40], medians[_NUM_SAMPLES - 1 - _NUM_SAMPLES // 40]
    )
