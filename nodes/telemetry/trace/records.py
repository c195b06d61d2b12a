"""Records of a trace: stream ids, counts and times, but no tokens, texts or identities of users."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from nodes.telemetry.trace.json_form import as_object, from_object
from policies.plan import Batch, Observation, Prediction


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """A plan was made. Prices are predictions: the sum over streams of seconds a token.

    at_s: The coordinator's clock.
    target: The target whose streams are planned.
    observation: What the plan was made from, as `policies.plan.Observation`.
    policy: The policy that made the groups.
    batches: The groups of streams that would wait for each other's guesses.
    plain: The streams beside the groups, which are decoded plainly.
    prediction: What the groups were predicted to take, with their price; null if unknown.
    is_grouped: Whether the groups are in force, instead of open flow, in which no stream waits.
    open_price_s: The predicted price of open flow.
    """

    at_s: float
    target: str
    observation: Observation
    policy: str
    batches: tuple[Batch, ...]
    plain: tuple[int, ...]
    prediction: Prediction | None
    is_grouped: bool
    open_price_s: float


@dataclass(frozen=True, slots=True)
class FollowRecord:
    """A draft node follows a stream from now on: it has read the stream's text and guesses for it.

    at_s: The coordinator's clock.
    target: The target that serves the stream.
    stream_id: The stream.
    node: The draft node; empty when none follows the stream any more.
    reason: Why none does.
    """

    at_s: float
    target: str
    stream_id: int
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class GuessRecord:
    """A message with guesses of a draft node came to the coordinator.

    at_s: The coordinator's clock.
    target: The target that the guesses are for.
    node: The draft node.
    num_streams: The streams with guesses in the message.
    num_tokens: The guesses in it.
    """

    at_s: float
    target: str
    node: str
    num_streams: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class PassStream:
    """What a pass committed to a stream, and what became of its guesses.

    stream_id: The stream.
    num_tokens: The tokens that the pass committed.
    num_draft_tokens: The guesses that it took.
    num_accepted_tokens: Those of them that were accepted.
    num_offered: The draft node's guesses that were present when the pass began.
    num_late: The guesses that came too late to be used.
    num_looked_up: The guesses that the target found by prompt lookup.
    best_percent: The chance, in percent, of the first guess that was present for the pass.
    """

    stream_id: int
    num_tokens: int
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_offered: int = 0
    num_late: int = 0
    num_looked_up: int = 0
    best_percent: int = 0


@dataclass(frozen=True, slots=True)
class PassRecord:
    """The target reported a pass.

    at_s: The coordinator's clock when the report came.
    target: The target.
    pass_s: The time of the pass.
    predicted_s: Its predicted time; 0 if there was no prediction.
    rtt_s: The round trip to the target, as heartbeats measure it.
    streams: The streams to which the pass committed tokens.
    num_read: The prompt tokens that the pass read besides.
    """

    at_s: float
    target: str
    pass_s: float
    predicted_s: float
    rtt_s: float
    streams: tuple[PassStream, ...]
    num_read: int = 0


Record = PlanRecord | FollowRecord | GuessRecord | PassRecord
KINDS: Final[dict[str, type[Record]]] = {
    "plan": PlanRecord,
    "follow": FollowRecord,
    "guesses": GuessRecord,
    "pass": PassRecord,
}
_NAMES: Final = {cls: name for name, cls in KINDS.items()}


def to_line(number: int, record: Record) -> bytes:
    """Encode a record as a line of JSON, with its kind and its number."""
    found = {"number": number, "kind": _NAMES[type(record)], **as_object(record)}
    return json.dumps(found, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes | str) -> Record:
    """Decode a line of to_line and drop the number. Raises ValueError."""
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a line of JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("not an object")
    found.pop("number", None)
    cls = KINDS.get(str(found.pop("kind", "")))
    if cls is None:
        raise ValueError(f"kind is not one of {', '.join(KINDS)}")
    record: Record = from_object(cls, found)
    return record


def num_entries(record: Record) -> int:
    """Return a record's share of the ring's limit: one, and one for each stream in it."""
    match record:
        case PlanRecord(observation=observation):
            return 1 + len(observation.streams)
        case PassRecord(streams=streams):
            return 1 + len(streams)
    return 1
