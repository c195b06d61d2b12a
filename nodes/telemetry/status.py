"""The status document: what a mesh does, as everybody who shows it reads it.

docs/status.md says what the fields mean. It holds names of nodes and models, ids of streams, counts
and times; never tokens or texts, nor who asked for them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

from nodes.messages import MAX_STATUS_BYTES
from nodes.telemetry.trace.json_form import from_object

Labels = dict[str, int]


@dataclass(frozen=True, slots=True)
class CostPoint:
    """A pass of so many tokens: as calibrated, and as seen since."""

    num_tokens: int
    calibrated_s: float
    now_s: float


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node that is in, or has left within some minutes (reason: why)."""

    name: str
    role: str
    model: str
    engine: str
    exact: bool
    emulated: bool
    state: str
    reason: str
    silent_s: float
    joined_s: float
    rtt_s: float | None
    rate_bps: float | None
    rate_is: str
    medium: str
    num_streams: int
    max_streams: int
    used_cells: int
    num_cells: int
    busy: float
    busy_s: float
    bytes_in: int
    bytes_out: int
    costs: tuple[CostPoint, ...]
    model_hash: str
    numerics_class: str


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One choice of a request. gamma: guesses in its last pass. plain: a label of PLAIN_LABELS, ""
    where that had some. num_rounds: passes with guesses."""

    stream_id: int
    client: str
    user: str
    priority: int
    target: str
    draft: str
    phase: str
    num_prompt_tokens: int
    num_tokens: int
    max_tokens: int
    gamma: int
    acceptance: float
    plain: str
    reason: str
    tokens_per_s: float
    age_s: float
    num_rounds: int
    num_draft_tokens: int
    num_accepted_tokens: int


@dataclass(frozen=True, slots=True)
class WaitingStatus:
    """Streams without a place, by priority, and requests whose texts are not tokenized yet."""

    num_streams: int
    num_tokenizing: int
    oldest_s: float
    by_priority: Labels


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """Streams that wait for their guesses and go together; seconds as predicted."""

    stream_ids: tuple[int, ...]
    gammas: tuple[int, ...]
    draft_s: float
    air_s: float
    verify_s: float
    lap_s: float
    num_tokens: int


@dataclass(frozen=True, slots=True)
class PlanStatus:
    """The plan in force. policy: "flow" where no stream waits for another, else whose groups these
    are. open_price_s, grouped_price_s: what open flow and the best groups were last predicted to
    take, as the weighted sum over streams of seconds a token; 0.0 if not known.
    """

    policy: str
    batches: tuple[BatchStatus, ...]
    plain: tuple[int, ...]
    bound: str
    tokens_per_s: float
    open_price_s: float
    grouped_price_s: float


@dataclass(frozen=True, slots=True)
class ErrorStatus:
    """|observed - predicted| / predicted of passes or plans, over the last 1,000 at most."""

    num_seen: int
    median: float
    p95: float


@dataclass(frozen=True, slots=True)
class ObservedStatus:
    """What became of the plan in the last `window_s`. price_s: as in PlanStatus, as seen."""

    tokens_per_s: float
    passes_per_s: float
    price_s: float
    errors: dict[str, ErrorStatus]


@dataclass(frozen=True, slots=True)
class RatioStatus:
    """Observed / predicted times: how many up to each of `bounds`, and above; and their sum."""

    counts: tuple[int, ...]
    total: float


@dataclass(frozen=True, slots=True)
class CountStatus:
    """What a target's streams have come to since the coordinator started.

    made, judged, accepted: guesses that passes took, by position, the first first. gammas: passes
    of a stream by guesses taken. guesses: what became of them, by a label of FATES. num_compared:
    guesses of draft nodes, taken or not, that were compared with the text; num_right were right.
    num_messages: of draft nodes, with guesses.
    """

    tokens: Labels
    made: tuple[int, ...]
    judged: tuple[int, ...]
    accepted: tuple[int, ...]
    gammas: tuple[int, ...]
    plain_steps: Labels
    guesses: Labels
    num_compared: int
    num_right: int
    num_messages: int
    num_parked: int
    num_reopened: int
    num_texts: int
    num_texts_reused: int
    tokens_read: int
    tokens_reused: int
    num_passes: int
    pass_s: float
    ratios: dict[str, RatioStatus]


@dataclass(frozen=True, slots=True)
class SpanStatus:
    """A pass, or a message with guesses, which takes no time; on the clock of `at_s`."""

    stage: str
    node: str
    start_s: float
    end_s: float
    num_tokens: int
    num_guesses: int


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """plan and observed: None once the target has left; its counts stay."""

    name: str
    plan: PlanStatus | None
    observed: ObservedStatus | None
    counts: CountStatus
    spans: tuple[SpanStatus, ...]


@dataclass(frozen=True, slots=True)
class MediumStatus:
    """A shared medium: predicted seconds that texts to nodes and uploads of clients took of it
    since the start, and their share of late."""

    name: str
    reserved_s: float
    busy: float


@dataclass(frozen=True, slots=True)
class WireTotal:
    """Messages of one kind. direction: in or out, as the coordinator sees it."""

    kind: str
    direction: str
    num_messages: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Since the coordinator started."""

    requests: Labels
    num_submitted: int
    num_moved: int
    num_stale: int
    num_dropped: int
    wire: tuple[WireTotal, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """at_s: the coordinator's clock. window_s: what rates and busy fractions are over.

    num_streams: all that have a place or wait for one; `streams` holds the first of them.
    """

    cluster: str
    epoch: str
    version: str
    protocol: int
    at_s: float
    uptime_s: float
    window_s: float
    ratio_bounds: tuple[float, ...]
    nodes: tuple[NodeStatus, ...]
    num_streams: int
    streams: tuple[StreamStatus, ...]
    waiting: WaitingStatus
    targets: tuple[TargetStatus, ...]
    media: tuple[MediumStatus, ...]
    totals: Totals


def encode_status(status: Status, max_bytes: int = MAX_STATUS_BYTES) -> bytes:
    """As JSON; of what is too long for a message the first streams and the last spans."""
    most_streams = len(status.streams)
    most_spans = max((len(target.spans) for target in status.targets), default=0)
    while len(data := _dump(status)) > max_bytes and (most_streams or most_spans):
        most_streams, most_spans = most_streams // 2, most_spans // 2
        targets = tuple(
            replace(target, spans=target.spans[max(0, len(target.spans) - most_spans) :])
            for target in status.targets
        )
        status = replace(status, streams=status.streams[:most_streams], targets=targets)
    return data


def decode_status(data: bytes) -> Status:
    """The inverse. Raises ValueError that names the field."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    return from_object(Status, found)


def _dump(status: Status) -> bytes:
    return json.dumps(
        status, default=_fields, allow_nan=False, ensure_ascii=False, separators=(",", ":")
    ).encode()


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}


def finite(value: float | None) -> float | None:
    """None for what is not known or has no limit: JSON has no number for it."""
    return None if value is None or not math.isfinite(value) else value
