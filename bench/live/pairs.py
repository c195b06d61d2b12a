"""Ratios of paired runs, A B then B A: a machine's speed drifts less within a pair."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

_NUM_SAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median of paired ratios. low, high: its 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def paired_ratio(pairs: Sequence[tuple[float, float]], seed: int = 1) -> Ratio:
    """Return the ratio of the second number of each pair to the first.

    pairs: at least one pair of positive numbers.
    """
    ratios = [b / a for a, b in pairs]
    source = random.Random(seed)
    medians = sorted(median(source.choices(ratios, k=len(ratios))) for _ in range(_NUM_SAMPLES))
    return Ratio(
        median(ratios), medians[_NUM_SAMPLES // 40], medians[_NUM_SAMPLES - 1 - _NUM_SAMPLES // 40]
    )
