"""Records of a trace: stream ids, counts and times, but no tokens, texts or identities of users."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from airdraft.mesh.json_form import as_object, from_object
from airdraft.nodes.messages import TraceReply
from airdraft.policies.plan import Batch, Observation, Prediction

# More than a minute of 100 passes a second with 4 streams each.
MAX_BYTES: Final = 8_000_000


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """A plan was made. Prices are predictions: the sum over streams of seconds a token."""

    at_s: float  #: The coordinator's clock.
    target: str  #: The target whose streams are planned.
    observation: Observation  #: What the plan was made from, as `policies.plan.Observation`.
    policy: str  #: The policy that made the groups.
    batches: tuple[Batch, ...]  #: The groups of streams that would wait for each other's guesses.
    plain: tuple[int, ...]  #: The streams beside the groups.
    #: What the groups were predicted to take, with their price; null if unknown.
    prediction: Prediction | None
    #: Whether the groups are in force, instead of open flow, in which no stream waits.
    is_grouped: bool
    open_price_s: float  #: The predicted price of open flow.


@dataclass(frozen=True, slots=True)
class FollowRecord:
    """A draft node follows a stream from now on: it has read the stream's text and guesses
    for it."""

    at_s: float  #: The coordinator's clock.
    target: str  #: The target that serves the stream.
    stream_id: int  #: The stream.
    node: str  #: The draft node; empty when none follows the stream any more.
    reason: str  #: Why none does.


@dataclass(frozen=True, slots=True)
class GuessRecord:
    """A message with guesses of a draft node came to the coordinator."""

    at_s: float  #: The coordinator's clock.
    target: str  #: The target that the guesses are for.
    node: str  #: The draft node.
    num_streams: int  #: The streams with guesses in the message.
    num_tokens: int  #: The guesses in it.


@dataclass(frozen=True, slots=True)
class PassStream:
    """What a pass committed to a stream, and what became of its guesses."""

    stream_id: int  #: The stream.
    num_tokens: int  #: The tokens that the pass committed.
    num_draft_tokens: int = 0  #: The guesses that it took.
    num_accepted_tokens: int = 0  #: Those of them that were accepted.
    num_offered: int = 0  #: The draft node's guesses that were present when the pass began.
    num_late: int = 0  #: The guesses that came too late to be used.
    num_looked_up: int = 0  #: The guesses that the target found by prompt lookup.
    num_in_turns: int = 0  #: The guesses of the draft model in the target's process.
    #: The chance, in percent, of the first guess that was present for the pass.
    best_percent: int = 0
    plain: str = ""  #: Why it took no guesses, as a label of the status; empty if it took some.


@dataclass(frozen=True, slots=True)
class PassRecord:
    """The target reported a pass."""

    at_s: float  #: The coordinator's clock when the report came.
    target: str  #: The target.
    pass_s: float  #: The time of the pass.
    predicted_s: float  #: Its predicted time; 0 if there was no prediction.
    rtt_s: float  #: The round trip to the target, as heartbeats measure it.
    streams: tuple[PassStream, ...]  #: The streams to which the pass committed tokens.
    num_read: int = 0  #: The prompt tokens that the pass read besides.
    turn_s: float = 0.0  #: The time of the steps of the draft model in the target's process.


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


# -- the last of them ------------------------------------------------------------------------------


class Ring:
    """Keeps the lines of the last records, up to max_bytes in all."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lines: deque[bytes] = deque()
        self._num_bytes = 0
        # The number of the last record; the first one has number 1.
        self.last = 0

    def add(self, record: Record) -> None:
        self.last += 1
        line = to_line(self.last, record)
        self._lines.append(line)
        self._num_bytes += len(line)
        while self._num_bytes > self._max_bytes:
            self._num_bytes -= len(self._lines.popleft())

    def clear(self) -> None:
        """Drop all records, but continue their numbers."""
        self._lines.clear()
        self._num_bytes = 0

    def after(self, number: int, max_bytes: int, request_id: int = 0) -> TraceReply:
        """Returns the records after a number that fit max_bytes, without any larger than that."""
        first = self.last - len(self._lines) + 1
        at = min(max(number + 1, first), self.last + 1)
        num_lost = max(0, at - number - 1)
        lines: list[bytes] = []
        num_bytes = 0
        for line in islice(self._lines, at - first, None):
            if len(line) > max_bytes:
                num_lost += 1
            elif num_bytes + len(line) > max_bytes:
                break
            else:
                lines.append(line)
                num_bytes += len(line)
            at += 1
        return TraceReply(request_id, at - 1, num_lost, at <= self.last, b"".join(lines))
