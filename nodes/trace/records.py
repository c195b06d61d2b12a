"""What is recorded: stream ids, counts and times. Never a token, a text, or who asked for it.

at_s: the coordinator's clock. target: whose scheduler tells. Rounds are numbered by target.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from nodes.trace.json_form import as_object, from_object
from policies.plan import Batch, Observation, Prediction


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """A plan came into force, made for an observation; `policy` made it or what was kept."""

    at_s: float
    target: str
    observation: Observation
    policy: str
    batches: tuple[Batch, ...]
    plain: tuple[int, ...]
    prediction: Prediction | None


@dataclass(frozen=True, slots=True)
class RoundStream:
    """gamma: its cap on guesses. stop: the least chance of being accepted at which one is made."""

    stream_id: int
    gamma: int
    stop: float = 0.0


@dataclass(frozen=True, slots=True)
class RoundNode:
    """A draft node's part of a round: predicted seconds of guessing and of the way."""

    node: str
    draft_s: float
    link_s: float
    stream_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """A round starts. batch: its number in the plan, from 1. predicted_s: its cycle, or 0.0.

    Streams of no node are guessed for from their own texts.
    """

    at_s: float
    target: str
    round_id: int
    batch: int
    predicted_s: float
    streams: tuple[RoundStream, ...]
    nodes: tuple[RoundNode, ...]


@dataclass(frozen=True, slots=True)
class DraftRecord:
    """A draft node's answer, of a round or of a round on trial, is there.

    draft_s: as the node says, from request to guesses; 0.0 if it does not. predicted_s: for the
    guesses that it made; 0.0 where others' rounds were in the way. rtt_s: of its link. num_ready,
    num_wasted: as in DraftReply.
    """

    at_s: float
    target: str
    round_id: int
    node: str
    draft_s: float
    predicted_s: float
    rtt_s: float
    num_ready: int = 0
    num_wasted: int = 0


@dataclass(frozen=True, slots=True)
class GivenUpRecord:
    """Draft nodes were late, or left: the round went on without them."""

    at_s: float
    target: str
    round_id: int
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VerifyRecord:
    """A round goes to the target. predicted_s: of a pass of its tokens alone, or 0.0."""

    at_s: float
    target: str
    round_id: int
    num_tokens: int
    predicted_s: float


@dataclass(frozen=True, slots=True)
class PassStream:
    """What a pass committed to a stream. round_id: 0 where it was decoded on a lease."""

    stream_id: int
    round_id: int
    num_tokens: int
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class PassRecord:
    """A pass of the target is reported. rtt_s: of the link to it, as heartbeats measure it.
    num_read: tokens of texts that it read beside."""

    at_s: float
    target: str
    pass_s: float
    predicted_s: float
    rtt_s: float
    streams: tuple[PassStream, ...]
    num_read: int = 0


@dataclass(frozen=True, slots=True)
class LapRecord:
    """All streams of a round are back. predicted_s: of its cycle, or 0.0."""

    at_s: float
    target: str
    round_id: int
    lap_s: float
    predicted_s: float


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """A draft node is asked for guesses that no target sees."""

    at_s: float
    target: str
    round_id: int
    node: str
    stream_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TrialResultRecord:
    at_s: float
    target: str
    stream_id: int
    num_draft_tokens: int
    num_right: int


Record = (
    PlanRecord
    | RoundRecord
    | DraftRecord
    | GivenUpRecord
    | VerifyRecord
    | PassRecord
    | LapRecord
    | TrialRecord
    | TrialResultRecord
)
KINDS: Final[dict[str, type[Record]]] = {
    "plan": PlanRecord,
    "round": RoundRecord,
    "draft": DraftRecord,
    "given_up": GivenUpRecord,
    "verify": VerifyRecord,
    "pass": PassRecord,
    "lap": LapRecord,
    "trial": TrialRecord,
    "trial_result": TrialResultRecord,
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
        case RoundRecord(streams=streams) | PassRecord(streams=streams):
            return 1 + len(streams)
        case TrialRecord(stream_ids=stream_ids):
            return 1 + len(stream_ids)
    return 1
