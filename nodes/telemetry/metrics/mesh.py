"""Metrics from a status document, which has the coordinator's counters. Pure."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from airdraft.nodes.telemetry.metrics.families import Metric
from airdraft.nodes.telemetry.status import Status

UP: Final = Metric(
    "airdraft_up", "gauge", "1 if the coordinator or a node answers, else 0.", ("role", "node")
)
REQUESTS: Final = Metric(
    "airdraft_requests_total", "counter", "Requests that have ended, by outcome.", ("outcome",)
)
STREAMS: Final = Metric(
    "airdraft_streams", "gauge", "Streams, by phase; those that wait for a place too.", ("phase",)
)
TOKENS: Final = Metric(
    "airdraft_tokens_total", "counter", "Committed tokens, by what made them.", ("target", "kind")
)
GUESSES: Final = Metric(
    "airdraft_guesses_total", "counter", "Guesses that passes took.", ("target", "outcome")
)
PASSES: Final = Metric(
    "airdraft_passes_total", "counter", "Target passes that committed something.", ("target",)
)
NODE_BYTES: Final = Metric(
    "airdraft_node_wire_bytes_total",
    "counter",
    "Bytes to a node (out) and from it (in).",
    ("role", "node", "direction"),
)
METRICS: Final = (UP, REQUESTS, STREAMS, TOKENS, GUESSES, PASSES, NODE_BYTES)


class MeshMetrics(Collector):
    """The metrics of one status. status: None if the coordinator does not answer."""

    def __init__(self, status: Status | None) -> None:
        self._status = status

    def collect(self) -> Iterator[Family]:
        """Yield all metrics in a fixed order, those without a value too."""
        found = {metric: dict[tuple[str, ...], float]() for metric in METRICS}
        found[UP]["coordinator", ""] = int(self._status is not None)
        for metric, value, *labels in _values(self._status) if self._status is not None else ():
            # Shortened names may be equal. A scrape must not have the same labels twice.
            found[metric][tuple(labels)] = value
        for metric, values in found.items():
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=metric.labels)
            for known, value in values.items():
                family.add_metric(known, value)
            yield family


def _values(status: Status) -> Iterator[tuple[Metric, float, *tuple[str, ...]]]:
    for node in status.nodes:
        yield UP, int(node.state == "ok"), node.role, node.name
        yield NODE_BYTES, node.bytes_in, node.role, node.name, "in"
        yield NODE_BYTES, node.bytes_out, node.role, node.name, "out"
    for outcome, count in status.totals.requests.items():
        yield REQUESTS, count, outcome
    for phase, count in {"waiting": status.waiting.num_streams, **status.phases}.items():
        yield STREAMS, count, phase
    for target in status.targets:
        counts, num_accepted = target.counts, sum(target.counts.accepted)
        for kind, count in counts.tokens.items():
            yield TOKENS, count, target.name, kind
        yield GUESSES, num_accepted, target.name, "accepted"
        yield GUESSES, sum(counts.made) - num_accepted, target.name, "refused"
        yield PASSES, counts.num_passes, target.name
