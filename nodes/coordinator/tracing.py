"""Records what the schedulers do while a client requests traces. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from mesh.json_form import copied_from
from nodes.coordinator.members.record import NodeRecord
from nodes.messages import MAX_TRACE_BYTES, CommitReply, TraceReply, TraceRequest
from nodes.scheduler import Scheduler
from nodes.scheduler.planning import Made
from nodes.scheduler.stream import Stream
from nodes.telemetry.trace.records import (
    FollowRecord,
    GuessRecord,
    PassRecord,
    PassStream,
    PlanRecord,
    Ring,
)
from nodes.worker.stream import StreamId

# Recording continues for this long after the last request.
LINGER_S: Final = 5.0
# A client that begins within this time after another one starts at the same record, because the
# block of plans in force is not small.
_SAME_START_S: Final = 1.0

Schedulers = Iterable[tuple[NodeRecord, Scheduler]]


class Tracing:
    """One ring of records for all targets and all clients; it is off without requests."""

    def __init__(self) -> None:
        self._ring = Ring()
        self._until: float | None = None
        # The ring position where the last block of plans in force begins, and when it was made.
        self._start, self._started_at = 0, -math.inf

    def answer(self, request: TraceRequest, schedulers: Schedulers, now: float) -> TraceReply:
        after = request.after
        is_old = self._until is None or now >= self._started_at + _SAME_START_S
        if self._until is None or (after < 0 and is_old):
            # A new client gets the plans in force first; clients already reading get them again.
            self._start, self._started_at = self._ring.last, now
            for target, scheduler in schedulers:
                self._record(target, scheduler, now)
        if after < 0:
            after = self._start
        self._until = now + LINGER_S
        return self._ring.after(after, MAX_TRACE_BYTES, request.request_id)

    def target_joined(self, target: NodeRecord, scheduler: Scheduler, now: float) -> None:
        if self._until is not None:
            self._record(target, scheduler, now)

    def tick(self, schedulers: Schedulers, now: float) -> None:
        """Stop recording when no request has come for LINGER_S."""
        if self._until is not None and now > self._until:
            self._until = None
            for _, scheduler in schedulers:
                scheduler.record(None, now)
            self._ring.clear()

    def _record(self, target: NodeRecord, scheduler: Scheduler, now: float) -> None:
        heartbeat = target.heartbeat
        scheduler.record(
            TargetRecorder(self._ring, target.name, lambda: heartbeat.rtt_s or 0.0), now
        )


class TargetRecorder:
    """Adds the records of one target's scheduler to a ring; `now` is the scheduler's time.

    rtt_s: returns the round trip to the target, 0.0 while it is unknown.
    """

    def __init__(self, ring: Ring, target: str, rtt_s: Callable[[], float]) -> None:
        self._ring, self._target, self._rtt_s = ring, target, rtt_s
        # By stream: the draft node that was last reported.
        self._followers: dict[StreamId, str] = {}

    def planned(self, made: Made, *, is_grouped: bool, now: float) -> None:
        record = copied_from(
            made.grouped,
            PlanRecord,
            at_s=now,
            target=self._target,
            observation=made.observation,
            is_grouped=is_grouped,
            open_price_s=made.open_s,
        )
        self._ring.add(record)

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
        self._ring.add(GuessRecord(now, self._target, node, num_streams, num_tokens))

    def committed(
        self, reply: CommitReply, labels: Mapping[StreamId, str], predicted_s: float, now: float
    ) -> None:
        streams = tuple(
            copied_from(entry, PassStream, plain=labels.get(StreamId(entry.stream_id), ""))
            for entry in reply.entries
        )
        times = reply.pass_s, predicted_s, self._rtt_s()
        self._ring.add(PassRecord(now, self._target, *times, streams, reply.num_read_tokens))
