"""What happened on a target, as its state tells it."""

from __future__ import annotations

from dataclasses import dataclass

from nodes.engine.protocol import StreamError
from nodes.messages import TokenScores
from nodes.stream import StreamId, StreamSpec


@dataclass(frozen=True, slots=True)
class Ready:
    """num_read: tokens that were run for it, not copied. has_begun: the same pass committed its
    first token."""

    stream_id: StreamId
    generation: int
    num_read: int = 0
    has_begun: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """code: as in StreamFailedNotice."""

    stream_id: StreamId
    generation: int
    reason: str
    code: str = "unavailable"


@dataclass(frozen=True, slots=True)
class PromptScored:
    """Scores of consecutive tokens of a prompt; fields as in PromptScoresNotice."""

    stream_id: StreamId
    generation: int
    position: int
    scores: tuple[TokenScores, ...]


@dataclass(frozen=True, slots=True)
class Parked:
    """A stream gave up its place in the cache. It goes on, with the next generation, when Ready."""

    stream_id: StreamId
    generation: int


@dataclass(frozen=True, slots=True)
class Committed:
    """Tokens of one stream that one pass added after prefix_len; fields as in CommitEntry."""

    stream_id: StreamId
    generation: int
    prefix_len: int
    token_ids: tuple[int, ...]
    num_draft_tokens: int
    num_accepted_tokens: int
    finish_reason: str
    text: bytes
    scores: tuple[TokenScores, ...] = ()
    num_compared: int = 0
    num_right: int = 0
    num_late: int = 0
    num_looked_up: int = 0
    num_offered: int = 0
    best_chance: float = 0.0


@dataclass(frozen=True, slots=True)
class ReadBeside:
    """A pass that committed read so many tokens of prompts, too."""

    num_tokens: int


@dataclass(frozen=True, slots=True)
class Probed:
    """Fields as in ProbeReply."""

    seed: int
    digest: str


Event = Ready | Failed | Parked | PromptScored | Committed | ReadBeside | Probed


def failed_by(spec: StreamSpec, generation: int, error: StreamError) -> Failed:
    """A stream that cannot go on, such as one whose grammar cannot be used."""
    return Failed(spec.stream_id, generation, str(error), error.code)
