"""Records what the schedulers do while a client requests traces. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from airdraft.mesh.json_form import copied_from
from airdraft.nodes.coordinator.members.record import TargetRecord
from airdraft.nodes.messages import (
    MAX_TRACE_BYTES,
    ChainPart,
    CommitReply,
    TraceReply,
    TraceRequest,
)
from airdraft.nodes.scheduler.stream import Stream
from airdraft.nodes.telemetry.trace.records import (
    FollowRecord,
    GuessRecord,
    PassRecord,
    PassStream,
    PlanRecord,
    Ring,
)
from airdraft.nodes.worker.stream import StreamId

# Recording continues for this long after the last request.
LINGER_S: Final = 5.0
# A client that begins within this time after another one starts at the same record, because the
# block of plans in force is not small.
_SAME_START_S: Final = 1.0

Ids = tuple[int, ...]


class Tracing:
    """One ring of records for all targets and all clients; it is off without requests."""

    def __init__(self) -> None:
        self._ring = Ring()
        self._until: float | None = None
        # The ring position where the last block of plans in force begins, and when it was made.
        self._start, self._started_at = 0, -math.inf
        # By target and stream: the draft node that was last reported.
        self._followers: dict[str, dict[StreamId, str]] = {}

    def answer(
        self, request: TraceRequest, targets: Iterable[TargetRecord], now: float
    ) -> TraceReply:
        after = request.after
        is_new = self._until is None or (after < 0 and now >= self._started_at + _SAME_START_S)
        self._until = now + LINGER_S
        if is_new:
            # A new client gets the plans in force first; clients already reading get them again.
            self._start, self._started_at = self._ring.last, now
            self._followers.clear()
            for target in targets:
                self.planned(target, now)
                self._followed(target, now)
        if after < 0:
            after = self._start
        return self._ring.after(after, MAX_TRACE_BYTES, request.request_id)

    def target_joined(self, target: TargetRecord) -> None:
        """Forget the followers of an earlier target of this name."""
        self._followers.pop(target.name, None)

    def tick(self, targets: Iterable[TargetRecord], now: float) -> None:
        """Report followers, or stop recording when no request has come for LINGER_S."""
        if self._until is not None and now > self._until:
            self._until = None
            self._ring.clear()
        elif self._until is not None:
            for target in targets:
                self._followed(target, now)

    def planned(self, target: TargetRecord, now: float) -> None:
        """Record the last plan of a target."""
        made = target.scheduler.last_result
        if self._until is not None and made is not None:
            record = copied_from(
                made.grouped,
                PlanRecord,
                at_s=now,
                target=target.name,
                observation=made.observation,
                is_grouped=target.scheduler.is_grouped,
                open_price_s=made.open_s,
            )
            self._ring.add(record)

    def _followed(self, target: TargetRecord, now: float) -> None:
        """Report streams whose draft node has begun or ceased to guess since the last call."""
        streams, before = target.streams, self._followers.get(target.name, {})
        new = {s: x.follow.node for s, x in streams.items() if x.follow and x.follow.is_ready}
        self._followers[target.name] = new
        for stream_id in dict.fromkeys([*before, *new]):
            node, stream = new.get(stream_id, ""), streams.get(stream_id)
            if before.get(stream_id, "") != node:
                reason = stream.refusal if stream is not None else "it ended or moved on"
                self._ring.add(FollowRecord(now, target.name, stream_id, node, reason))

    def guessed(
        self, target: TargetRecord, node: str, parts: Sequence[tuple[ChainPart, Ids]], now: float
    ) -> None:
        """Record a message with guesses of a draft node."""
        if self._until is not None:
            num_tokens = sum(len(token_ids) for _, token_ids in parts)
            self._ring.add(GuessRecord(now, target.name, node, len(parts), num_tokens))

    def streams_before(self, target: TargetRecord) -> Mapping[StreamId, Stream]:
        """Returns a target's streams before a pass, if the pass will be recorded."""
        return dict(target.streams) if self._until is not None else {}

    def committed(
        self,
        target: TargetRecord,
        streams: Mapping[StreamId, Stream],
        reply: CommitReply,
        now: float,
    ) -> None:
        """Record a pass. streams: from streams_before(), with the ones that ended in the pass."""
        if self._until is None:
            return
        labels = {stream_id: stream.plain for stream_id, stream in streams.items()}
        entries = tuple(
            copied_from(entry, PassStream, plain=labels.get(StreamId(entry.stream_id), ""))
            for entry in reply.entries
        )
        times = reply.pass_s, target.scheduler.predicted_s, target.heartbeat.rtt_s or 0.0
        self._ring.add(
            PassRecord(now, target.name, *times, entries, reply.num_read_tokens, reply.turn_s)
        )
        self._followed(target, now)
