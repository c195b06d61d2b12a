"""What a scheduler returns, and what it reports to while a trace is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from nodes.messages import (
    CloseStreamNotice,
    CommitNotice,
    CommitReply,
    GuessNotice,
    HoldNotice,
    LeaseRequest,
    OpenStreamRequest,
    TokenScores,
)
from nodes.scheduler.stream import Figures, Stream
from nodes.worker.stream import StreamId

if TYPE_CHECKING:
    from nodes.scheduler.planning import Made


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


class Recorder(Protocol):
    """Records what one scheduler does. now: the scheduler's time."""

    def planned(self, made: Made, *, is_grouped: bool, now: float) -> None:
        """A plan was made. is_grouped: its groups are in force; otherwise open flow is."""

    def followed(self, streams: Mapping[StreamId, Stream], now: float) -> None:
        """The streams are these now, each with its draft node."""

    def guessed(self, node: str, num_streams: int, num_tokens: int, now: float) -> None:
        """A message with guesses of a draft node has arrived."""

    def committed(
        self, reply: CommitReply, labels: Mapping[StreamId, str], predicted_s: float, now: float
    ) -> None:
        """The target reported a pass.

        labels: by stream, why it took no guesses, if it did not. predicted_s: 0.0 where nothing was
        predicted.
        """
