"""What is recorded: stream ids, counts and times. Never a token, a text, or who asked for it.

at_s: the coordinator's clock. target: whose scheduler tells.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from nodes.telemetry.trace.json_form import as_object, from_object
from policies.plan import Batch, Observation, Prediction


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """A plan was made for an observation: groups of streams that would wait for their guesses, by
    `policy`. is_grouped: they are in force, instead of open flow, in which nobody waits;
    open_price_s: what that was predicted to take, as Prediction.price_s.
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
    """A draft node has read a stream's text and guesses for it. node: "" where none does any more,
    and the reason."""

    at_s: float
    target: str
    stream_id: int
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class GuessRecord:
    """A message with guesses of a draft node has come to the coordinator."""

    at_s: float
    target: str
    node: str
    num_streams: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class PassStream:
    """What a pass committed to a stream; fields as in CommitEntry."""

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
    """A pass of the target is reported. predicted_s: 0.0 where nothing was predicted. rtt_s: of the
    link to it, as heartbeats measure it. num_read: tokens of texts that it read besides."""

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
    """A record as a line of JSON, with its kind and its number."""
    found = {"number": number, "kind": _NAMES[type(record)], **as_object(record)}
    return json.dumps(found, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes | str) -> Record:
    """The inverse, but for the number. Raises ValueError."""
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a line of JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("not an object")
    found.pop("number", None)
    cls = KINDS.get(str(found.pop("kind", "")))
    if cls is None:
        raise ValueError(f"kind is none of {', '.join(KINDS)}")
    record: Record = from_object(cls, found)
    return record


def num_entries(record: Record) -> int:
    """What a record weighs in memory: one, and one for each stream it tells of."""
    match record:
        case PlanRecord(observation=observation):
            return 1 + len(observation.streams)
        case PassRecord(streams=streams):
            return 1 + len(streams)
    return 1
