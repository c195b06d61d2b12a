"""Writes metrics in Prometheus' text format. Only this module imports prometheus_client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as PrometheusFamily
from prometheus_client.registry import Collector

from nodes.client.client import RequestFailedError
from nodes.telemetry.metrics import mesh
from nodes.telemetry.metrics.families import Distribution, Family
from nodes.telemetry.metrics.gateway import GatewayMetrics
from nodes.telemetry.status import Status

logger = logging.getLogger(__name__)

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
# A scrape must not wait long for a coordinator that is unreachable.
_STATUS_LIMIT_S: Final = 2.0


async def render_metrics(
    status: Callable[[], Awaitable[Status]],
    gateway: GatewayMetrics | None = None,
    limit_s: float = _STATUS_LIMIT_S,
) -> bytes:
    """The body of /metrics, of type CONTENT_TYPE. status: fetches the status, as Client.status.

    Without an answer from the coordinator, airdraft_coordinator_up is 0 and the metrics of the mesh
    are missing.
    """
    found: Status | None = None
    try:
        async with asyncio.timeout(limit_s):
            found = await status()
    except (RequestFailedError, TimeoutError) as error:
        logger.debug("no status for metrics: %s", error)
    return exposition([*mesh.families(found), *(gateway.families() if gateway else ())])


def exposition(families: Iterable[Family]) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Families(families))
    return generate_latest(registry)


class _Families(Collector):
    """A collector of families that were computed before, converted for each scrape."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[PrometheusFamily]:
        return map(_converted, self._families)

    def describe(self) -> list[PrometheusFamily]:
        return []


def _converted(family: Family) -> PrometheusFamily:
    metric = family.metric
    if metric.kind == "histogram":
        found = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in family.values.items():
            assert isinstance(value, Distribution), metric.name
            bounds = [*map(str, value.bounds), "+Inf"]
            buckets = list(zip(bounds, accumulate(map(float, value.counts)), strict=True))
            found.add_metric(labels, buckets, value.total)
        return found
    plain = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    simple = plain(metric.name, metric.help, labels=metric.labels)
    for labels, value in family.values.items():
        assert not isinstance(value, Distribution), metric.name
        simple.add_metric(labels, float(value))
    return simple
