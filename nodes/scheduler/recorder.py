"""What a scheduler tells of its plans, passes and guesses, to whoever records them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nodes.messages import CommitEntry
from nodes.scheduler.planning import Made
from nodes.worker.stream import StreamId


class Recorder(Protocol):
    """Called with what happens, as it happens; `now` is the scheduler's.

    Must not change or keep what it is given, but for observations and plans, which are values.
    """

    def planned(self, made: Made, *, is_grouped: bool, now: float) -> None:
        """A plan was made. is_grouped: its groups are in force, instead of open flow."""

    def followed(self, stream_id: StreamId, node: str, reason: str, now: float) -> None:
        """A draft node follows a stream from now on. node: "" for none, and the reason."""

    def guessed(self, node: str, num_streams: int, num_tokens: int, now: float) -> None:
        """A message with guesses of a draft node has come."""

    def committed(
        self,
        pass_s: float,
        predicted_s: float,
        entries: Sequence[CommitEntry],
        now: float,
        num_read: int = 0,
    ) -> None:
        """The target reports a pass. predicted_s: 0.0 where nothing was predicted. num_read: tokens
        of texts that it read besides."""
