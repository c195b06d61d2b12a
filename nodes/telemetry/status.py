"""The status document, which describes the state of a mesh for all programs that display it.

docs/reference/metrics-and-status.md is generated from these classes. Each docstring has a line for
each field, which begins with the field's name. The document has names of nodes and models, ids of
streams, counts and times, but no tokens, texts or identities of users.
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
    """The time of a pass of a given size.

    num_tokens: The number of tokens in the pass.
    calibrated_s: Its time when the node was calibrated.
    now_s: Its time as observed since.
    """

    num_tokens: int
    calibrated_s: float
    now_s: float


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node that is in the mesh, or left it within the last 300 s.

    name: The node's name in the mesh.
    role: `target` or `draft`.
    model: The name of its model.
    engine: The engine that runs it.
    exact: Whether it computes the same bits in every batch.
    emulated: Whether its times are those of a device that is not there.
    state: `ok`; `silent` after three heartbeat intervals without a message; `left`.
    reason: Why it left, otherwise empty.
    silent_s: The time since its last message, or since it left.
    joined_s: The time since it joined.
    rtt_s: The round trip to it; null if unknown.
    rate_bps: The rate of the link to it, in bit/s; null if unknown or without a limit.
    rate_is: Whether that rate is `declared`, `measured` or `unknown`.
    medium: The medium that it shares, empty for none.
    num_streams: The streams that a target serves, or that a draft node follows.
    max_streams: The most streams that it serves at a time.
    used_cells: The cells of its cache that are taken; for targets only.
    num_cells: The cells of its cache.
    busy: The fraction of the window in which it worked.
    busy_s: The seconds that it worked, as it reported them: the passes of a target that committed
        something, and the passes of a draft node up to its last message with guesses.
    bytes_in: The bytes that came from it.
    bytes_out: The bytes that went to it.
    costs: The times of passes of several sizes.
    model_hash: The SHA-256 of its model file.
    numerics_class: Its numerics class. A `~` in it means that the target's answer to the
        coordinator's probe was not that of the class; the digits after it are from that answer.
    """

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
    """One choice of a request.

    stream_id: The stream's number.
    client: An alias of the client that sent the request.
    user: An alias of the client's user, empty if the request names none.
    priority: The request's priority.
    target: The target that serves it, empty while it waits.
    draft: The draft node that follows it and guesses for it, empty if none does.
    phase: `waiting` for a place; `reading`, while the target reads the prompt; `decoding`; `parked`
        when the target took it out of its cache to make room.
    num_prompt_tokens: The tokens of its prompt.
    num_tokens: The tokens that were committed.
    max_tokens: The most tokens that its client wants.
    gamma: The guesses that its last pass took; 0 for a plain pass.
    acceptance: The estimated chance that a guess of its draft node is right.
    plain: Why its last pass took no guesses, as a label; empty if it took some.
    reason: The same reason as a line with the figures that decided it, for the first 64 streams.
    tokens_per_s: Its speed over the window.
    age_s: The time since its request arrived.
    num_rounds: Its passes that took guesses.
    num_draft_tokens: The guesses that its passes took.
    num_accepted_tokens: Those of them that were accepted.
    """

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
    """The streams and requests that wait for a place on a target.

    num_streams: The streams that have no place.
    num_tokenizing: The requests whose text is not tokenized yet.
    oldest_s: How long the first of the streams has waited.
    by_priority: The waiting streams by priority.
    """

    num_streams: int
    num_tokenizing: int
    oldest_s: float
    by_priority: Labels


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """A group of streams that wait for each other's guesses and are verified together.

    stream_ids: The streams of the group.
    gammas: The guesses that each of them takes, in the same order.
    draft_s: The predicted time in which the guesses are made.
    air_s: The predicted time that its messages occupy the links.
    verify_s: The predicted time of the target's pass.
    round_s: The predicted cycle time of the group.
    num_tokens: The tokens of the pass.
    """

    stream_ids: tuple[int, ...]
    gammas: tuple[int, ...]
    draft_s: float
    air_s: float
    verify_s: float
    round_s: float
    num_tokens: int


@dataclass(frozen=True, slots=True)
class PlanStatus:
    """The plan in force. A price is the weighted sum over streams of seconds a token.

    policy: `flow` for open flow, in which no stream waits for another, otherwise the policy that
        made the groups.
    batches: The groups, empty in open flow.
    plain: The streams that are decoded plainly beside the groups.
    bound: What limits the groups; empty in open flow.
    tokens_per_s: The predicted speed of the groups; 0 in open flow.
    open_price_s: The last predicted price of open flow; 0 if unknown.
    grouped_price_s: The last predicted price of the best groups; 0 if unknown.
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
    """How far predictions were off: |observed - predicted| / predicted, of 1,000 cases at most.

    num_seen: The number of cases.
    median: Their median.
    p95: Their 95th percentile.
    """

    num_seen: int
    median: float
    p95: float


@dataclass(frozen=True, slots=True)
class ObservedStatus:
    """Observations of a target over the window.

    tokens_per_s: The tokens committed in a second.
    passes_per_s: The passes in a second.
    price_s: The price as observed; 0 while too little is known.
    errors: The errors of predictions by stage: `pass` and `plan`.
    """

    tokens_per_s: float
    passes_per_s: float
    price_s: float
    errors: dict[str, ErrorStatus]


@dataclass(frozen=True, slots=True)
class RatioStatus:
    """A histogram of observed over predicted times.

    counts: The cases up to each of `ratio_bounds`, and those above the last one.
    total: The sum of the ratios.
    """

    counts: tuple[int, ...]
    total: float


@dataclass(frozen=True, slots=True)
class CountStatus:
    """Counters of a target since the coordinator started.

    tokens: The committed tokens by what made them: `accepted` guesses, the target's own token after
        a wrong guess (`corrected`) or after right ones (`bonus`), and `plain` ones.
    made: The guesses that passes took, by position in the stream's round.
    judged: Those before which all guesses of the round were accepted, by position. The acceptance
        at a position is accepted / judged.
    accepted: Those that were accepted, by position.
    gammas: The passes of a stream by the guesses that they took; plain passes are at 0.
    plain_steps: The passes of a stream without guesses, by label.
    guesses: What became of guesses, by label.
    num_compared: The guesses of draft nodes that were compared with the text, whether a pass took
        them or not; each chain counts up to its first wrong guess.
    num_right: Those of them that were right.
    num_messages: The messages with guesses that arrived from draft nodes.
    num_parked: The streams that were parked to make room in the cache.
    num_reopened: The streams that were opened again because a message was lost.
    num_texts: The prompts that the target took in.
    num_texts_reused: Those prompts of which a part was in its caches.
    tokens_read: The prompt tokens that the target computed.
    tokens_reused: The prompt tokens that it found in its caches.
    num_passes: The passes that committed something.
    pass_s: The seconds of these passes.
    ratios: Histograms of observed over predicted times, by stage: `pass` and `plan`.
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
    """A moment of the last 10 s, on the clock of `at_s`; 320 of a target at most.

    stage: `pass` for a pass of the target, `guesses` for a message of a draft node, which takes no
        time.
    node: The node that did it.
    start_s: When it began.
    end_s: When it ended.
    num_tokens: The tokens in it.
    num_guesses: Those of them that were guesses.
    """

    stage: str
    node: str
    start_s: float
    end_s: float
    num_tokens: int
    num_guesses: int


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """A target and its streams. One that has left keeps its counters.

    name: The target's name.
    plan: The plan in force; null when the target has left.
    observed: The observations of it; null when the target has left.
    counts: Its counters.
    spans: Its passes and the messages with guesses of the last 10 s.
    """

    name: str
    plan: PlanStatus | None
    observed: ObservedStatus | None
    counts: CountStatus
    spans: tuple[SpanStatus, ...]


@dataclass(frozen=True, slots=True)
class MediumStatus:
    """A medium that several links share.

    name: The medium's name.
    reserved_s: The predicted seconds in which prompts to nodes and uploads of clients occupied it.
    busy: The fraction of the window in which these occupied it.
    """

    name: str
    reserved_s: float
    busy: float


@dataclass(frozen=True, slots=True)
class WireTotal:
    """The messages of one kind.

    kind: The message's name in the wire protocol.
    direction: `in` or `out`, as the coordinator sees it.
    num_messages: The number of messages.
    num_bytes: Their size.
    """

    kind: str
    direction: str
    num_messages: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Counters since the coordinator started.

    requests: The requests that are over, by how they ended: `done`, `cancelled`, `left` (the client
        did), `bad_request`, `not_found`, `overloaded`, `unavailable`, `deadline`, `internal`.
    num_submitted: The requests that arrived.
    num_moved: The moves of a request to another target.
    num_stale: The messages that referred to an earlier state.
    num_dropped: The messages that did not decode or were not allowed.
    wire: The messages by kind and direction.
    """

    requests: Labels
    num_submitted: int
    num_moved: int
    num_stale: int
    num_dropped: int
    wire: tuple[WireTotal, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """The document.

    cluster: The name of the mesh.
    epoch: The coordinator's epoch, as text, because it is larger than a browser's numbers.
    version: The coordinator's version of airdraft.
    protocol: The version of the wire protocol.
    at_s: The coordinator's clock, which counts from an unknown moment.
    uptime_s: The time since the coordinator started.
    window_s: The time over which rates and busy fractions are taken.
    ratio_bounds: The upper bounds of the histograms in `ratios`.
    nodes: The nodes: 64 at most that are in the mesh, and 32 that have left.
    num_streams: The streams that have a place or wait for one.
    streams: The first 512 of them, those with a place first.
    waiting: The streams and requests that wait for a place.
    targets: The targets.
    media: The shared media.
    totals: The counters of the whole mesh.
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
    """Encode a status as JSON. If it is too long, only the first streams and last spans stay."""
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
    """Decode a status from JSON. Raises ValueError that names the field."""
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
    """Return None for a value that is unknown or not finite, which JSON cannot represent."""
    return None if value is None or not math.isfinite(value) else value
