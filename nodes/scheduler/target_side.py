"""What the target says of its streams, but for commits: read, parked, failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from nodes.scheduler.cycle import CycleState
from nodes.scheduler.dispatch import Dispatcher
from nodes.scheduler.instructions import Abort, Instruction
from nodes.scheduler.membership import Membership
from nodes.scheduler.stream import Idle, Leased, Opening, Stream
from nodes.scheduler.target import TargetCosts
from nodes.scheduler.watching.watch import Watch
from nodes.stream import StreamId


class TargetSide:
    """The streams' phases on the target, which it shares with the scheduler as all else.

    What speaks of the past is counted, and answered with None.
    """

    def __init__(
        self,
        streams: Mapping[StreamId, Stream],
        cycle: CycleState,
        dispatcher: Dispatcher,
        membership: Membership,
        costs: TargetCosts | None,
        watch: Watch,
    ) -> None:
        self._streams = streams
        self._cycle = cycle
        self._dispatcher = dispatcher
        self._membership = membership
        self._costs = costs
        self._watch = watch
        self.num_stale = 0

    def ready(
        self,
        stream_id: StreamId,
        generation: int,
        now: float,
        num_read: int | None,
        *,
        has_begun: bool,
    ) -> list[Instruction] | None:
        """It has read a stream's text; SchedulerState.target_ready says what the rest means."""
        stream = self._current(stream_id, generation)
        if stream is None:
            return None
        if isinstance(stream.phase, Opening):
            length = len(stream.token_ids)
            stream.phase = Leased(length + 1) if has_begun else Idle()
            stream.is_parked = False
            if self._costs is not None:
                num_read = length if num_read is None else min(num_read, length)
                self._watch.counts.text_read(num_read, length)
                self._costs.prompt_read(num_read, length, len(self._streams) - 1, now)
            self._cycle.members_changed()
        return []

    def parked(self, stream_id: StreamId, generation: int, now: float) -> list[Instruction] | None:
        """It had no cells left for a stream, and says ready when it goes on.

        What was sent meanwhile under the old generation is void: the target drops it.
        """
        stream = self._current(stream_id, generation)
        if stream is None:
            return None
        out = self._dispatcher.leave(stream, now)
        stream.phase, stream.is_parked = Opening(), True
        self._watch.counts.num_parked += 1
        stream.spec = replace(stream.spec, generation=generation + 1)
        stream.drop_trial()
        self._cycle.members_changed()
        return out

    def failed(
        self, stream_id: StreamId, generation: int, reason: str, now: float, code: str
    ) -> list[Instruction] | None:
        """It cannot serve a stream; code: whose fault it is, as in RequestFailedNotice."""
        stream = self._current(stream_id, generation)
        if stream is None:
            return None
        return [*self._membership.remove(stream, now), Abort(stream_id, reason, code)]

    def _current(self, stream_id: StreamId, generation: int) -> Stream | None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.spec.generation != generation:
            self.num_stale += 1
            return None
        return stream
