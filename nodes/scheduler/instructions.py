"""What a scheduler returns."""

from __future__ import annotations

from dataclasses import dataclass

from airdraft.nodes.messages import (
    CloseStreamNotice,
    CommitNotice,
    GuessNotice,
    HoldNotice,
    LeaseRequest,
    OpenStreamRequest,
    TokenScores,
)
from airdraft.nodes.scheduler.stream import Figures
from airdraft.nodes.worker.stream import StreamId


@dataclass(frozen=True, slots=True)
class ToTarget:
    message: OpenStreamRequest | CloseStreamNotice | LeaseRequest | GuessNotice | HoldNotice


@dataclass(frozen=True, slots=True)
class ToDraft:
    node: str
    message: OpenStreamRequest | CloseStreamNotice | CommitNotice


@dataclass(frozen=True, slots=True)
class Emit:
    """Give the client output tokens of a stream.

    position: index of the first of them; 0 is the first output token. num_draft_tokens: guesses
    that the pass verified. num_accepted_tokens: how many of token_ids were guessed. is_last: a
    Finish follows.
    """

    stream_id: StreamId
    position: int
    token_ids: tuple[int, ...]
    text: bytes
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    scores: tuple[TokenScores, ...] = ()
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    """The stream has ended. plain_reason: how many passes took no guesses, and why."""

    stream_id: StreamId
    reason: str
    figures: Figures
    plain_reason: str


@dataclass(frozen=True, slots=True)
class Abort:
    """The stream cannot go on. error: one line for the client. code: as in RequestFailedNotice."""

    stream_id: StreamId
    error: str
    code: str = "unavailable"


Instruction = ToTarget | ToDraft | Emit | Finish | Abort
