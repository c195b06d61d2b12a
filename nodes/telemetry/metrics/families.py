"""What a metric is: its name, its labels, and values by them. Pure, and of no library."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """name: as queries have it, units in it, _total at the end of counters."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


@dataclass(slots=True)
class Distribution:
    """A histogram's numbers: counts up to each bound, and above; and the sum of what was seen."""

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
    """A metric with its values by label values, in the order of its labels."""

    metric: Metric
    values: dict[tuple[str, ...], float | Distribution] = field(default_factory=dict)

    def add(self, value: float | Distribution, *labels: str) -> None:
        assert len(labels) == len(self.metric.labels), self.metric.name
        # Names that were cut may have become the same: a scrape takes a label set once.
        self.values[labels] = value
