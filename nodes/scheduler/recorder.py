"""Turns what a scheduler does into records of a trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nodes.messages import CommitReply
from nodes.scheduler.planning import Made
from nodes.scheduler.stream import Stream
from nodes.telemetry.trace.records import (
    FollowRecord,
    GuessRecord,
    PassRecord,
    PassStream,
    PlanRecord,
)
from nodes.telemetry.trace.ring import Ring
from nodes.worker.stream import StreamId


class Recorder:
    """Adds the records of one target's scheduler to a ring; `now` is the scheduler's time.

    rtt_s: returns the round trip to the target, 0.0 while it is unknown.
    """

    def __init__(self, ring: Ring, target: str, rtt_s: Callable[[], float]) -> None:
        self._ring, self._target, self._rtt_s = ring, target, rtt_s
        # By stream: the draft node that was last reported.
        self._followers: dict[StreamId, str] = {}

    def planned(self, made: Made, *, is_grouped: bool, now: float) -> None:
        """A plan was made. is_grouped: its groups are in force; otherwise open flow is."""
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

    def followed(self, streams: Mapping[StreamId, Stream], now: float) -> None:
        """Report streams whose draft node has begun or ceased to guess since the last call."""
        new = {s: x.follow.node for s, x in streams.items() if x.follow and x.follow.is_ready}
        before, self._followers = self._followers, new
        for stream_id in dict.fromkeys([*before, *new]):
            node, stream = new.get(stream_id, ""), streams.get(stream_id)
            if before.get(stream_id, "") != node:
                reason = stream.refusal if stream is not None else "it ended or moved on"
                self._ring.add(FollowRecord(now, self._target, stream_id, node, reason))

    def guessed(self, node: str, num_streams: int, num_tokens: int, now: float) -> None:
        """A message with guesses of a draft node has arrived."""
        self._ring.add(GuessRecord(now, self._target, node, num_streams, num_tokens))

    def committed(
        self, reply: CommitReply, labels: Mapping[int, str], predicted_s: float, now: float
    ) -> None:
        """The target reported a pass.

        labels: by stream, why it took no guesses, if it did not. predicted_s: 0.0 where nothing was
        predicted.
        """
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
                "" if entry.num_draft_tokens else labels.get(entry.stream_id, ""),
            )
            for entry in reply.entries
        )
        times = reply.pass_s, predicted_s, self._rtt_s()
        self._ring.add(PassRecord(now, self._target, *times, streams, reply.num_read_tokens))
