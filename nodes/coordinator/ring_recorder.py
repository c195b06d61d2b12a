"""The recorder of one target's scheduler: it turns events into records of a ring."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nodes.messages import CommitEntry
from nodes.scheduler.planning import Made
from nodes.telemetry.trace.records import (
    FollowRecord,
    GuessRecord,
    PassRecord,
    PassStream,
    PlanRecord,
)
from nodes.telemetry.trace.ring import Ring
from nodes.worker.stream import StreamId


class RingRecorder:
    """A Recorder. rtt_s: returns the round trip to the target, 0.0 while it is unknown."""

    def __init__(self, ring: Ring, target: str, rtt_s: Callable[[], float]) -> None:
        self._ring, self._target, self._rtt_s = ring, target, rtt_s

    def planned(self, made: Made, *, is_grouped: bool, now: float) -> None:
        plan = made.grouped
        self._ring.add(
            PlanRecord(
                now,
                self._target,
                made.observation,
                plan.policy,
                plan.batches,
                plan.plain,
                plan.prediction,
                is_grouped,
                made.open_s,
            )
        )

    def followed(self, stream_id: StreamId, node: str, reason: str, now: float) -> None:
        self._ring.add(FollowRecord(now, self._target, stream_id, node, reason))

    def guessed(self, node: str, num_streams: int, num_tokens: int, now: float) -> None:
        self._ring.add(GuessRecord(now, self._target, node, num_streams, num_tokens))

    def committed(
        self,
        pass_s: float,
        predicted_s: float,
        entries: Sequence[CommitEntry],
        now: float,
        num_read: int = 0,
    ) -> None:
        streams = tuple(
            PassStream(
                entry.stream_id,
                entry.num_tokens,
                entry.num_draft_tokens,
                entry.num_accepted_tokens,
                entry.num_offered,
                entry.num_late,
                entry.num_looked_up,
                entry.best_percent,
            )
            for entry in entries
        )
        times = pass_s, predicted_s, self._rtt_s()
        self._ring.add(PassRecord(now, self._target, *times, streams, num_read))
