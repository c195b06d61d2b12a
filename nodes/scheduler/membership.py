"""Streams of one target as they come and go: placed, moved from target to target, ended."""

from __future__ import annotations

from collections.abc import Callable

from nodes.messages import CloseStreamNotice
from nodes.scheduler.cycle import CycleState
from nodes.scheduler.dispatch import Dispatcher
from nodes.scheduler.drafting.draft_side import DraftSide
from nodes.scheduler.drafting.drafts import DraftPool
from nodes.scheduler.drafting.lookup import Lookup
from nodes.scheduler.drafting.tries import Tries
from nodes.scheduler.instructions import Finish, Instruction, ToDraft, ToTarget, open_request
from nodes.scheduler.stream import Figures, Opening, Stream
from nodes.stream import StreamId, StreamSpec
from policies.acceptance import AcceptanceEstimate


class Membership:
    """Who is on the target. It shares its streams, draft nodes and plan with the scheduler; what a
    scheduler is made with says what acceptance and has_trials are.
    """

    def __init__(
        self,
        streams: dict[StreamId, Stream],
        drafts: DraftPool,
        cycle: CycleState,
        dispatcher: Dispatcher,
        draft_side: DraftSide,
        lookup: Lookup | None,
        acceptance: Callable[[StreamId], AcceptanceEstimate] | None,
        *,
        has_trials: bool,
    ) -> None:
        self._streams = streams
        self._drafts = drafts
        self._cycle = cycle
        self._dispatcher = dispatcher
        self._draft_side = draft_side
        self._lookup = lookup
        self._acceptance = acceptance
        self._has_trials = has_trials
        # Of streams that ended, until the coordinator has told their clients.
        self.ended: dict[StreamId, tuple[Figures, str]] = {}

    def admit(self, spec: StreamSpec, fixed_gamma: int | None, weight: float) -> list[Instruction]:
        """Place a stream on the target and, if there is one, on the draft node that suits best."""
        stream = Stream(spec, list(spec.token_ids), fixed_gamma, weight)
        if self._has_trials and fixed_gamma is None:
            stream.tries = Tries()
        if self._acceptance is not None:
            stream.acceptance = self._acceptance(spec.stream_id)
        return self._take_in(stream)

    def adopt(self, stream: Stream) -> list[Instruction]:
        """Go on with a stream that another target's scheduler released."""
        stream.spec = stream.current_spec(stream.spec.generation + 1)
        stream.phase, stream.is_parked = Opening(), False
        stream.num_reopened = 0
        stream.refusals.clear()
        return self._take_in(stream)

    def _take_in(self, stream: Stream) -> list[Instruction]:
        spec = stream.spec
        self._streams[spec.stream_id] = stream
        if self._lookup is not None and stream.fixed_gamma != 0:
            self._lookup.open(spec, stream.weight)
        opened = ToTarget(open_request(spec))
        # Where only the prompt is scored there is nothing to guess.
        return [opened, *self._draft_side.place(stream)] if stream.tokens_left else [opened]

    def release(self, stream: Stream, now: float) -> list[Instruction]:
        """Let a stream go; its target is told, and what it still says of it is stale."""
        notice = CloseStreamNotice(stream.spec.stream_id, stream.spec.generation)
        return [ToTarget(notice), *self._detach(stream, now)]

    def release_all(self, now: float) -> tuple[list[Stream], list[Instruction]]:
        """The target is gone: every stream, and what draft nodes are to be told."""
        streams = list(self._streams.values())
        told = [instruction for stream in streams for instruction in self._detach(stream, now)]
        return streams, [i for i in told if isinstance(i, ToDraft)]

    def cancel(self, stream: Stream, now: float) -> list[Instruction]:
        """End a stream whose client does not want it any more."""
        stream_id = stream.spec.stream_id
        notice = CloseStreamNotice(stream_id, stream.spec.generation)
        return [ToTarget(notice), *self.remove(stream, now), Finish(stream_id, "cancelled")]

    def remove(self, stream: Stream, now: float) -> list[Instruction]:
        """Take out a stream that has ended, and keep what it did; what draft nodes are told."""
        stream_id = stream.spec.stream_id
        reason = stream.plain_reason or self._cycle.why_plain(stream_id)
        if stream.is_on_probation:
            reason = "draft off: the text ended before its guesses were tried"
        self.ended[stream_id] = (stream.figures, reason)
        return self._detach(stream, now)

    def _detach(self, stream: Stream, now: float) -> list[Instruction]:
        stream_id = stream.spec.stream_id
        del self._streams[stream_id]
        self._cycle.members_changed()
        out: list[Instruction] = []
        if self._lookup is not None:
            self._lookup.close(stream_id)
        was_by_lookup = stream.is_by_lookup
        placement = self._drafts.ended(stream)
        if placement is not None and not was_by_lookup:
            out.append(ToDraft(placement.node, CloseStreamNotice(stream_id, placement.generation)))
        return out + self._dispatcher.leave(stream, now)
