"""Metrics with their names, labels and values. Pure, and independent of any metrics library."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric. name: As in queries, with its unit, and with _total at the end for counters."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


@dataclass(slots=True)
class Distribution:
    """A histogram: the counts up to each bound and above the last one, and the sum of values."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    @classmethod
    def of(cls, bounds: Sequence[float], counts: Sequence[int], total: float) -> Distribution:
        return cls(tuple(bounds), list(counts), total)


@dataclass(slots=True)
class Family:
    """A metric with its values by the values of its labels, in the order of its labels."""

    metric: Metric
    values: dict[tuple[str, ...], float | Distribution] = field(default_factory=dict)

    def add(self, value: float | Distribution, *labels: str) -> None:
        assert len(labels) == len(self.metric.labels), self.metric.name
        # Shortened names may be equal. A scrape must not have the same label values twice.
        self.values[labels] = value
