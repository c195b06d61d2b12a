"""Opens streams on their target anew, and ends them. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from nodes.messages import CloseStreamNotice
from nodes.scheduler import following
from nodes.scheduler.instructions import Abort, Finish, Instruction, ToTarget
from nodes.scheduler.reasons import summary
from nodes.scheduler.state import SchedulerState
from nodes.scheduler.stream import ReadingText, Stream

# Tokens of a lease; half of them are left when it is renewed. At 20 to 100 tokens a second both
# last longer than any round trip, and little work is lost when the coordinator or client is gone.
LEASE_TOKENS: Final = 64
# A stream is reopened at most this many times without a new token in between.
_MOST_REOPENED: Final = 3


def opening(stream: Stream) -> ToTarget:
    """Returns a request to open a stream with a lease, so that it decodes once its text is read."""
    return ToTarget(replace(stream.spec, num_leased=LEASE_TOKENS))


def closing(stream: Stream) -> ToTarget:
    return ToTarget(CloseStreamNotice(stream.spec.stream_id, stream.spec.generation))


def remove(state: SchedulerState, stream: Stream) -> list[Instruction]:
    """Forget a stream that the target no longer has, or is told to close."""
    del state.streams[stream.spec.stream_id]
    state.holds.pop(stream.spec.stream_id, None)
    return following.unfollow(state, stream)


def finish(state: SchedulerState, stream: Stream, reason: str) -> list[Instruction]:
    finished = Finish(stream.spec.stream_id, reason, stream.figures, summary(state, stream))
    return [*remove(state, stream), finished]


def abort(state: SchedulerState, stream: Stream, error: str) -> list[Instruction]:
    return [closing(stream), *remove(state, stream), Abort(stream.spec.stream_id, error)]


def reopen(state: SchedulerState, stream: Stream, error: str) -> list[Instruction]:
    """Open a stream anew from its journal, or abort it where that has not helped."""
    if stream.num_reopened >= _MOST_REOPENED:
        return abort(state, stream, error)
    closed = closing(stream)
    # A parking raises the generation by 1, and the notice of one may be on its way.
    stream.spec = stream.current_spec(stream.spec.generation + 2)
    stream.phase, stream.is_parked = ReadingText(), False
    stream.num_reopened += 1
    return [closed, opening(stream)]
