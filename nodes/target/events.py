"""The events that the state of a target returns."""

from __future__ import annotations

from dataclasses import dataclass

from nodes.messages import (
    ProbeReply,
    PromptScoresNotice,
    StreamFailedNotice,
    StreamParkedNotice,
    StreamReadyNotice,
    TokenScores,
)
from nodes.worker.stream import StreamId


@dataclass(frozen=True, slots=True)
class Committed:
    """Tokens that a pass added to a stream after prefix_len tokens; fields as in CommitEntry."""

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
    """A pass that committed tokens also read num_tokens tokens of prompts."""

    num_tokens: int


# What is sent to the coordinator as it is.
Notice = (
    StreamReadyNotice | StreamFailedNotice | StreamParkedNotice | PromptScoresNotice | ProbeReply
)
Event = Notice | Committed | ReadBeside
