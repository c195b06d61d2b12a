"""The interface through which a scheduler reports its plans, passes and guesses for a trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nodes.messages import CommitEntry
from nodes.scheduler.planning import Made
from nodes.worker.stream import StreamId


class Recorder(Protocol):
    """Receives each event as it happens; `now` is the scheduler's time.

    An implementation must not change its arguments. It may keep only observations and plans, which
    are values.
    """

    def planned(self, made: Made, *, is_grouped: bool, now: float) -> None:
        """A plan was made. is_grouped: its groups are in force; otherwise open flow is."""

    def followed(self, stream_id: StreamId, node: str, reason: str, now: float) -> None:
        """A stream has another draft node from now on. node: "" for none; reason says why."""

    def guessed(self, node: str, num_streams: int, num_tokens: int, now: float) -> None:
        """A message with guesses of a draft node has arrived."""

    def committed(
        self,
        pass_s: float,
        predicted_s: float,
        entries: Sequence[CommitEntry],
        now: float,
        num_read: int = 0,
    ) -> None:
        """The target reported a pass. predicted_s: 0.0 where nothing was predicted. num_read:
        tokens of prompts that the pass also read."""
