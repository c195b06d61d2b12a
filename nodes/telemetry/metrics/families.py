"""Declares metrics, and makes the objects of prometheus_client that hold their values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

MetricKind = Literal["counter", "gauge", "histogram"]

# The library would add a sample with the time of its start to each counter and histogram.
disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric. name: As in queries, with its unit, and with _total at the end for counters."""

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()

    def counter(self, registry: CollectorRegistry) -> Counter:
        return Counter(self.name, self.help, self.labels, registry=registry)

    def histogram(self, registry: CollectorRegistry, bounds: Sequence[float]) -> Histogram:
        return Histogram(self.name, self.help, self.labels, registry=registry, buckets=bounds)
