"""The status document, which describes the state of a mesh for all programs that display it.

docs/reference/metrics-and-status.md is generated from these classes and the comments at their
fields. The document has names of nodes and models, ids of streams, counts and times, but no tokens,
texts or identities of users.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

from airdraft.mesh.json_form import from_object
from airdraft.nodes.messages import MAX_STATUS_BYTES

Labels = dict[str, int]


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node that is in the mesh, or left it within the last 300 s."""

    name: str  #: The node's name in the mesh.
    role: str  #: `target` or `draft`.
    model: str  #: The name of its model.
    engine: str  #: The engine that runs it.
    exact: bool  #: Whether it computes the same bits in every batch.
    takes_guesses: bool  #: Whether its model can take wrong guesses back.
    emulated: bool  #: Whether its times are those of a device that is not there.
    state: str  #: `ok`; `silent` after three heartbeat intervals without a message; `left`.
    reason: str  #: Why it left, otherwise empty.
    silent_s: float  #: The time since its last message, or since it left.
    joined_s: float  #: The time since it joined; 0 if it has left.
    rtt_s: float | None  #: The round trip to it; null if unknown.
    #: The rate of the link to it, in bit/s; null if unknown or without a limit.
    rate_bps: float | None
    rate_is: str  #: Whether that rate is `declared`, `measured` or `unknown`.
    medium: str  #: The medium that it shares, empty for none.
    num_streams: int  #: The streams that a target serves, or that a draft node follows.
    max_streams: int  #: The most streams that it serves at a time.
    used_cells: int  #: The cells of its cache that are taken; for targets only.
    num_cells: int  #: The most cells that its cache can have.
    max_length: int  #: The most tokens that one text can have on it.
    busy: float  #: The fraction of the window in which it worked.
    bytes_in: int  #: The bytes that came from it.
    bytes_out: int  #: The bytes that went to it.
    model_hash: str  #: The SHA-256 of its model file.
    #: Its numerics class. A `~` in it means that the target's answer to the coordinator's probe was
    #: not that of the class; the digits after it are from that answer.
    numerics_class: str
    #: The draft model that a target runs in its own process, empty for none.
    draft: str = ""
    draft_why: str = ""  #: How it came to that.


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One choice of a request."""

    stream_id: int  #: The stream's number.
    client: str  #: An alias of the client that sent the request.
    user: str  #: An alias of the client's user, empty if the request names none.
    target: str  #: The target that serves it, empty while it waits.
    draft: str  #: The draft node that follows it and guesses for it, empty if none does.
    #: `waiting` for a place; `reading`, while the target reads the prompt; `decoding`; `parked`
    #: when the target took it out of its cache to make room.
    phase: str
    num_tokens: int  #: The tokens that were committed.
    max_tokens: int  #: The most tokens that its client wants.
    gamma: int  #: The guesses that its last pass took; 0 for a plain pass.
    acceptance: float  #: The estimated chance that a guess of its draft node is right.
    plain: str  #: Why its last pass took no guesses, as a label; empty if it took some.
    #: The same reason as a line with the figures that decided it, for the first 64 streams.
    reason: str
    tokens_per_s: float  #: Its speed over the window.
    num_draft_tokens: int  #: The guesses that its passes took.
    num_accepted_tokens: int  #: Those of them that were accepted.


@dataclass(frozen=True, slots=True)
class WaitingStatus:
    """The streams and requests that wait for a place on a target."""

    num_streams: int  #: The streams that have no place.
    num_tokenizing: int  #: The requests whose prompts no target has read yet.


@dataclass(frozen=True, slots=True)
class PlanStatus:
    """The plan in force. A price is the weighted sum over streams of seconds a token."""

    #: `flow` for open flow, in which no stream waits for another; `plain` where the coordinator's
    #: policy is plain decoding; otherwise the policy that made the groups.
    policy: str
    #: The guesses that each stream of each group takes; empty in open flow.
    groups: tuple[tuple[int, ...], ...]
    bound: str  #: What limits the groups; empty in open flow.
    open_price_s: float  #: The last predicted price of open flow; 0 if unknown.
    grouped_price_s: float  #: The last predicted price of the best groups; 0 if unknown.


@dataclass(frozen=True, slots=True)
class ErrorStatus:
    """How far predictions were off: |observed - predicted| / predicted, of 1,000 cases at most."""

    num_seen: int  #: The number of cases.
    median: float  #: Their median.
    p95: float  #: Their 95th percentile.


@dataclass(frozen=True, slots=True)
class ObservedStatus:
    """Observations of a target over the window."""

    tokens_per_s: float  #: The tokens committed in a second.
    passes_per_s: float  #: The passes in a second.
    price_s: float  #: The price as observed; 0 while too little is known.
    errors: dict[str, ErrorStatus]  #: The errors of predictions by stage: `pass` and `plan`.


@dataclass(frozen=True, slots=True)
class CountStatus:
    """Counters of a target since the coordinator started."""

    #: The committed tokens by what made them: `accepted` guesses, the target's own token after a
    #: wrong guess (`corrected`) or after right ones (`bonus`), and `plain` ones.
    tokens: Labels
    made: tuple[int, ...]  #: The guesses that passes took, by position in the stream's round.
    #: Those before which all guesses of the round were accepted, by position. The acceptance at a
    #: position is accepted / judged.
    judged: tuple[int, ...]
    accepted: tuple[int, ...]  #: Those that were accepted, by position.
    #: The passes of a stream by the guesses that they took; plain passes are at 0.
    gammas: tuple[int, ...]
    plain_steps: Labels  #: The passes of a stream without guesses, by label.
    guesses: Labels  #: What became of guesses, by label.
    #: The tokens for which a draft node had guesses, taken or not, of a chain that had been right
    #: until then.
    num_compared: int
    num_right: int  #: Those for which the chain that promised most was right.
    tokens_read: int  #: The prompt tokens that the target computed.
    tokens_reused: int  #: The prompt tokens that it found in its caches.
    num_passes: int  #: The passes that committed something.
    pass_s: float  #: The seconds of these passes.


@dataclass(frozen=True, slots=True)
class SpanStatus:
    """A moment of the last 10 s, on the clock of `at_s`; 320 of a target at most."""

    #: `pass` for a pass of the target, `guesses` for a message of a draft node, which takes no
    #: time.
    stage: str
    node: str  #: The node that did it.
    start_s: float  #: When it began.
    end_s: float  #: When it ended.
    num_tokens: int  #: The tokens in it.
    num_guesses: int  #: Those of them that were guesses.


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """A target and its streams. One that has left keeps its counters."""

    name: str  #: The target's name.
    plan: PlanStatus | None  #: The plan in force; null when the target has left.
    observed: ObservedStatus | None  #: The observations of it; null when the target has left.
    counts: CountStatus  #: Its counters.
    spans: tuple[SpanStatus, ...]  #: Its passes and the messages with guesses of the last 10 s.


@dataclass(frozen=True, slots=True)
class MediumStatus:
    """A medium that several links share."""

    name: str  #: The medium's name.
    #: The predicted seconds in which prompts to nodes and uploads of clients occupied it.
    reserved_s: float
    busy: float  #: The fraction of the window in which these occupied it.


@dataclass(frozen=True, slots=True)
class WireTotal:
    """The messages of one kind."""

    kind: str  #: The message's name in the wire protocol.
    direction: str  #: `in` or `out`, as the coordinator sees it.
    num_messages: int  #: The number of messages.
    num_bytes: int  #: Their size.


@dataclass(frozen=True, slots=True)
class Totals:
    """Counters since the coordinator started."""

    #: The requests that are over, by how they ended: `done`, `cancelled`, `left` (the client did),
    #: `bad_request`, `not_found`, `overloaded`, `unavailable`, `deadline`, `internal`.
    requests: Labels
    num_submitted: int  #: The requests that arrived.
    num_moved: int  #: The moves of a stream to another target.
    num_stale: int  #: The messages that referred to an earlier state.
    num_dropped: int  #: The messages that did not decode or were not allowed.
    wire: tuple[WireTotal, ...]  #: The messages by kind and direction.


@dataclass(frozen=True, slots=True)
class Status:
    """The document."""

    cluster: str  #: The name of the mesh.
    epoch: str  #: The coordinator's epoch, as text, because it is larger than a browser's numbers.
    version: str  #: The coordinator's version of airdraft.
    protocol: int  #: The version of the wire protocol.
    at_s: float  #: The coordinator's clock, which counts from an unknown moment.
    uptime_s: float  #: The time since the coordinator started.
    #: The nodes: 64 at most that are in the mesh, and 32 that have left.
    nodes: tuple[NodeStatus, ...]
    num_streams: int  #: The streams that have a place or wait for one.
    streams: tuple[StreamStatus, ...]  #: The first 512 of them, those with a place first.
    #: All streams that have a place, by phase: `reading`, `decoding`, `parked`.
    phases: Labels
    waiting: WaitingStatus  #: The streams and requests that wait for a place.
    targets: tuple[TargetStatus, ...]  #: The targets.
    media: tuple[MediumStatus, ...]  #: The shared media.
    totals: Totals  #: The counters of the whole mesh.


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
        status, default=_plain, allow_nan=False, ensure_ascii=False, separators=(",", ":")
    ).encode()


def _plain(value: Any) -> Any:
    """Returns the fields of a part, or an integer of numpy as one of Python."""
    if isinstance(value, Integral):
        return int(value)
    return {name: _rounded(getattr(value, name)) for name in value.__slots__}


def _rounded(value: Any) -> Any:
    """Round a number to millionths. Infinity and NaN, which JSON cannot hold, become 0.0: such a
    value must not end the coordinator."""
    if not isinstance(value, float):
        return value
    return round(value, 6) if math.isfinite(value) else 0.0


def finite(value: float | None) -> float | None:
    """Returns None for a value that is unknown or not finite, which JSON cannot represent."""
    return None if value is None or not math.isfinite(value) else value
