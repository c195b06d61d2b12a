"""Metrics from a status document, which has the coordinator's counters. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from nodes.telemetry.metrics.families import Metric
from nodes.telemetry.status import NodeStatus, RatioStatus, Status, TargetStatus

STATES: Final = ("ok", "silent", "left")
_NODE, _TARGET, _MEDIUM = ("node", "role"), ("target",), ("medium",)
_WIRE = ("kind", "direction")


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"airdraft_{name}_total", "counter", text, labels)


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"airdraft_{name}", "gauge", text, labels)


UP: Final = _gauge(
    "coordinator_up", "1 if the coordinator sent its status for this answer, else 0."
)
INFO: Final = _gauge("info", "1; versions of the coordinator.", "cluster", "version", "protocol")
UPTIME: Final = _gauge("uptime_seconds", "Time since the coordinator started.")

REQUESTS: Final = _counter("requests", "Requests that have ended, by outcome.", "outcome")
SUBMITTED: Final = _counter("requests_submitted", "Requests that arrived.")
MOVED: Final = _counter("requests_moved", "Moves of a stream to another target.")
STALE: Final = _counter("messages_stale", "Messages that referred to an earlier state.")
DROPPED: Final = _counter("messages_dropped", "Messages that did not decode or were not allowed.")
WIRE_MESSAGES: Final = _counter("wire_messages", "Messages of the coordinator, by kind.", *_WIRE)
WIRE_BYTES: Final = _counter("wire_bytes", "Bytes of these messages, by kind.", *_WIRE)

STREAMS: Final = _gauge("streams", "Streams that are under way, by phase.", "phase")
WAITING: Final = _gauge("waiting_streams", "Streams without a place, by priority.", "priority")
OLDEST: Final = _gauge("waiting_oldest_seconds", "How long the stream that waits longest has.")
TOKENIZING: Final = _gauge("tokenizing_requests", "Requests whose text is not tokenized yet.")

TOKENS: Final = _counter("tokens", "Committed tokens, by what made them.", *_TARGET, "kind")
MADE: Final = _counter("guesses", "Guesses taken by passes, by position.", *_TARGET, "position")
JUDGED: Final = _counter(
    "guesses_judged", "Guesses after accepted ones only.", *_TARGET, "position"
)
ACCEPTED: Final = _counter("guesses_accepted", "Guesses accepted.", *_TARGET, "position")
GAMMAS: Final = _counter(
    "stream_passes", "Passes of a stream by guesses taken; 0: plain ones.", *_TARGET, "gamma"
)
PLAIN: Final = _counter("plain_steps", "Plain passes of a stream, by reason.", *_TARGET, "reason")
FATE: Final = _counter("guesses_fate", "Guesses, by what became of them.", *_TARGET, "fate")
COMPARED: Final = _counter(
    "guesses_compared", "Guesses compared with the text, taken or not.", *_TARGET, "outcome"
)
MESSAGES: Final = _counter("guess_messages", "Messages of draft nodes with guesses.", *_TARGET)
PARKED: Final = _counter("streams_parked", "Streams parked because cells ran short.", *_TARGET)
REOPENED: Final = _counter(
    "streams_reopened", "Streams opened again because a message was lost.", *_TARGET
)
TEXTS: Final = _counter("texts", "Prompts that a target took in, one a choice.", *_TARGET)
REUSED: Final = _counter("texts_reused", "Prompts of which a part was in caches.", *_TARGET)
PROMPT_TOKENS: Final = _counter(
    "prompt_tokens", "Tokens of prompts, read or found in caches.", *_TARGET, "source"
)
PASSES: Final = _counter("passes", "Target passes that committed something.", *_TARGET)
PASS_S: Final = _counter("pass_seconds", "Seconds of these passes.", *_TARGET)
RATIO: Final = Metric(
    "airdraft_stage_time_ratio",
    "histogram",
    "Observed over predicted seconds, of passes and of plans.",
    (*_TARGET, "stage"),
)
BATCHES: Final = _gauge("plan_groups", "Groups of the plan in force; 0: open flow.", *_TARGET)
PRICE: Final = _gauge(
    "plan_price_seconds", "Predicted sum of seconds a token, by way.", *_TARGET, "way"
)
SEEN_PRICE: Final = _gauge("observed_price_seconds", "Observed sum of seconds a token.", *_TARGET)
SPEED: Final = _gauge("observed_tokens_per_second", "Speed of the last 10 s.", *_TARGET)

NODE_INFO: Final = _gauge(
    "node_info", "1; properties of a node.", *_NODE, "model", "engine", "exact", "emulated"
)
NODE_STATE: Final = _gauge("node_state", "1 for the state a node is in, else 0.", *_NODE, "state")
NODE_SILENT: Final = _gauge("node_silent_seconds", "Time since a node's last message.", *_NODE)
NODE_RTT: Final = _gauge("node_round_trip_seconds", "Round trip to a node, if known.", *_NODE)
NODE_RATE: Final = _gauge("node_link_bits_per_second", "Rate of its link, if known.", *_NODE)
NODE_STREAMS: Final = _gauge("node_streams", "Streams that a node holds.", *_NODE)
NODE_CELLS: Final = _gauge("node_cells", "Cells of a node's cache.", *_NODE)
NODE_USED: Final = _gauge("node_cells_used", "Used cells of a target's cache.", *_NODE)
NODE_BUSY: Final = _gauge("node_busy_ratio", "Working fraction of the last 10 s.", *_NODE)
NODE_BUSY_S: Final = _counter("node_busy_seconds", "Seconds that a node worked.", *_NODE)
NODE_BYTES: Final = _counter("node_wire_bytes", "Bytes to (out) and from it.", *_NODE, "direction")

AIR_S: Final = _counter(
    "air_reserved_seconds", "Predicted seconds of prompts and uploads.", *_MEDIUM
)
AIR_BUSY: Final = _gauge("air_busy_ratio", "Fraction of the last 10 s for these.", *_MEDIUM)

METRICS: Final[tuple[Metric, ...]] = tuple(
    value for value in tuple(vars().values()) if isinstance(value, Metric)
)


class MeshMetrics(Collector):
    """The metrics of one status. status: None if the coordinator does not answer."""

    def __init__(self, status: Status | None) -> None:
        self._status = status

    def collect(self) -> Iterator[Family]:
        """Yield all metrics in a fixed order, those without a value too."""
        found = {metric: dict[tuple[str, ...], float | RatioStatus]() for metric in METRICS}
        found[UP][()] = int(self._status is not None)
        bounds: tuple[float, ...] = ()
        if self._status is not None:
            bounds = self._status.ratio_bounds
            for metric, value, labels in _values(self._status):
                assert len(labels) == len(metric.labels), metric.name
                if value is not None:
                    # Shortened names may be equal. A scrape must not have the same labels twice.
                    found[metric][labels] = value
        for metric, values in found.items():
            yield _family(metric, values, bounds)


def _family(
    metric: Metric, values: Mapping[tuple[str, ...], float | RatioStatus], bounds: Sequence[float]
) -> Family:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, ratio in values.items():
            assert isinstance(ratio, RatioStatus)
            sums = accumulate(map(float, ratio.counts))
            buckets = list(zip([*map(str, bounds), "+Inf"], sums, strict=True))
            histogram.add_metric(labels, buckets, ratio.total)
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in values.items():
        assert not isinstance(value, RatioStatus)
        family.add_metric(labels, value)
    return family


_Value = tuple[Metric, float | RatioStatus | None, tuple[str, ...]]


def _values(status: Status) -> Iterator[_Value]:
    yield INFO, 1, (status.cluster, status.version, str(status.protocol))
    yield UPTIME, status.uptime_s, ()
    for node in status.nodes:
        yield from _of_node(node)
    for target in status.targets:
        yield from _of_target(target)
    for medium in status.media:
        yield AIR_S, medium.reserved_s, (medium.name,)
        yield AIR_BUSY, medium.busy, (medium.name,)
    yield STREAMS, status.waiting.num_streams, ("waiting",)
    for phase, count in status.phases.items():
        yield STREAMS, count, (phase,)
    for priority, count in status.waiting.by_priority.items():
        yield WAITING, count, (priority,)
    yield OLDEST, status.waiting.oldest_s, ()
    yield TOKENIZING, status.waiting.num_tokenizing, ()
    totals = status.totals
    for outcome, count in totals.requests.items():
        yield REQUESTS, count, (outcome,)
    yield SUBMITTED, totals.num_submitted, ()
    yield MOVED, totals.num_moved, ()
    yield STALE, totals.num_stale, ()
    yield DROPPED, totals.num_dropped, ()
    for wire in totals.wire:
        yield WIRE_MESSAGES, wire.num_messages, (wire.kind, wire.direction)
        yield WIRE_BYTES, wire.num_bytes, (wire.kind, wire.direction)


def _of_node(node: NodeStatus) -> Iterator[_Value]:
    labels = node.name, node.role
    truths = str(node.exact).lower(), str(node.emulated).lower()
    yield NODE_INFO, 1, (*labels, node.model, node.engine, *truths)
    for state in STATES:
        yield NODE_STATE, int(node.state == state), (*labels, state)
    yield NODE_SILENT, node.silent_s, labels
    yield NODE_RTT, node.rtt_s, labels
    yield NODE_RATE, node.rate_bps, labels
    yield NODE_STREAMS, node.num_streams, labels
    yield NODE_CELLS, node.num_cells, labels
    yield NODE_USED, node.used_cells, labels
    yield NODE_BUSY, node.busy, labels
    yield NODE_BUSY_S, node.busy_s, labels
    yield NODE_BYTES, node.bytes_in, (*labels, "in")
    yield NODE_BYTES, node.bytes_out, (*labels, "out")


def _of_target(target: TargetStatus) -> Iterator[_Value]:
    name, counts = (target.name,), target.counts
    for kind, count in counts.tokens.items():
        yield TOKENS, count, (*name, kind)
    by_position = (MADE, counts.made), (JUDGED, counts.judged), (ACCEPTED, counts.accepted)
    for metric, numbers in by_position:
        for position, count in enumerate(numbers, 1):
            yield metric, count, (*name, str(position))
    for gamma, count in enumerate(counts.gammas):
        yield GAMMAS, count, (*name, str(gamma))
    for reason, count in counts.plain_steps.items():
        yield PLAIN, count, (*name, reason)
    for fate, count in counts.guesses.items():
        yield FATE, count, (*name, fate)
    yield COMPARED, counts.num_right, (*name, "right")
    yield COMPARED, counts.num_compared - counts.num_right, (*name, "wrong")
    yield MESSAGES, counts.num_messages, name
    yield PARKED, counts.num_parked, name
    yield REOPENED, counts.num_reopened, name
    yield TEXTS, counts.num_texts, name
    yield REUSED, counts.num_texts_reused, name
    yield PROMPT_TOKENS, counts.tokens_read, (*name, "read")
    yield PROMPT_TOKENS, counts.tokens_reused, (*name, "cache")
    yield PASSES, counts.num_passes, name
    yield PASS_S, counts.pass_s, name
    for stage, ratio in counts.ratios.items():
        yield RATIO, ratio, (*name, stage)
    if target.plan is not None and target.observed is not None:
        yield BATCHES, len(target.plan.batches), name
        yield PRICE, target.plan.open_price_s, (*name, "open")
        yield PRICE, target.plan.grouped_price_s, (*name, "grouped")
        yield SEEN_PRICE, target.observed.price_s, name
        yield SPEED, target.observed.tokens_per_s, name
