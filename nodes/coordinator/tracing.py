"""Records what the schedulers do while a client requests traces. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from nodes.coordinator.members.record import NodeRecord
from nodes.messages import MAX_TRACE_BYTES, TraceReply, TraceRequest
from nodes.scheduler import Scheduler
from nodes.scheduler.recorder import Recorder
from nodes.telemetry.trace.ring import Ring

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

    @property
    def is_on(self) -> bool:
        return self._until is not None

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
        scheduler.record(Recorder(self._ring, target.name, lambda: heartbeat.rtt_s or 0.0), now)
