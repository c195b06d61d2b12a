"""The events that the state of a target returns."""

from __future__ import annotations

from dataclasses import dataclass

from nodes.messages import (
    CommitEntry,
    ProbeReply,
    PromptScoresNotice,
    StreamFailedNotice,
    StreamParkedNotice,
    StreamReadyNotice,
)


@dataclass(frozen=True, slots=True)
class Committed:
    """What a pass added to a stream: its entry of the CommitReply, and the tokens."""

    entry: CommitEntry
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReadBeside:
    """A pass that committed tokens also read num_tokens tokens of prompts."""

    num_tokens: int


# What is sent to the coordinator as it is.
Notice = (
    StreamReadyNotice | StreamFailedNotice | StreamParkedNotice | PromptScoresNotice | ProbeReply
)
Event = Notice | Committed | ReadBeside
