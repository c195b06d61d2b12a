"""Opens streams on their target anew, and ends them; looks after them once a second. Pure.

Waits are checked independently of events, so that events cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Final

from airdraft.nodes.messages import CloseStreamNotice
from airdraft.nodes.scheduler import following
from airdraft.nodes.scheduler.comparison import Speculation
from airdraft.nodes.scheduler.instructions import Abort, Finish, Instruction, ToTarget
from airdraft.nodes.scheduler.reasons import summary
from airdraft.nodes.scheduler.silences import Awaited
from airdraft.nodes.scheduler.state import SchedulerState
from airdraft.nodes.scheduler.stream import ReadingText, Stream

# Tokens of a lease; half of them are left when it is renewed. At 20 to 100 tokens a second both
# last longer than any round trip, and little work is lost when the coordinator or client is gone.
LEASE_TOKENS: Final = 64
# A stream is reopened at most this many times without a new token in between.
_MOST_REOPENED: Final = 3
# Seconds after which a stream without progress counts as stuck, and as many more for each token
# that may have to be read first. Machines that swap and slow boards need that long.
_SILENT_S: Final = 60.0
_SILENT_S_PER_TOKEN: Final = 0.1


def opening(stream: Stream) -> ToTarget:
    """Returns a request to open a stream with a lease, so that it decodes once its text is read."""
    return ToTarget(replace(stream.spec, num_leased=LEASE_TOKENS))


def closing(stream: Stream) -> ToTarget:
    return ToTarget(CloseStreamNotice(stream.spec.stream_id, stream.spec.generation))


def remove(state: SchedulerState, stream: Stream) -> list[Instruction]:
    """Forget a stream that the target no longer has, or will close."""
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


def every_second(state: SchedulerState, now: float) -> list[Instruction]:
    """End waits that last too long, and choose draft nodes anew."""
    out: list[Instruction] = []
    limit_s = partial(_limit_s, state)
    for stream_id, is_reading in state.silences.overdue(_awaited(state), limit_s, now):
        stream = state.streams.get(stream_id)
        if stream is not None and is_reading:
            # The request to follow or its answer was lost. The stream would never be guessed for,
            # and decoding with and without guesses would never be compared.
            reason = "a draft node did not report that it has read the text"
            out += following.leave(state, stream, reason)
        elif stream is not None:
            error = "the target sent no tokens of this stream, even after it was opened again"
            out += reopen(state, stream, error)
    out += following.leave_full(state)
    for stream in state.streams.values():
        out += following.find_follower(state, stream)
    return out + following.rebalance(state)


def _awaited(state: SchedulerState) -> Iterator[tuple[Awaited, object]]:
    """Yields what streams wait for, each with what changes when there is progress."""
    used = state.used_cells
    # In a pause a draft node does not receive the rest of a long text.
    is_on = state.speculation is Speculation.ON
    for stream_id, s in state.streams.items():
        if is_on and s.follow is not None and not s.follow.is_ready:
            yield (stream_id, True), s.follow.number
        # A parked stream waits for the others to end, so what they get counts as its progress.
        progress = s.spec.generation, len(s.token_ids), s.phase, s.is_parked and used
        yield (stream_id, False), progress


def _limit_s(state: SchedulerState, awaited: Awaited) -> float:
    """Returns the seconds without progress after which a wait is too long."""
    stream_id, is_reading = awaited
    stream = state.streams[stream_id]
    follow = stream.follow
    if is_reading and follow is not None:
        return _SILENT_S + _SILENT_S_PER_TOKEN * state.drafts[follow.node].num_unread
    wanted_s = _SILENT_S + _SILENT_S_PER_TOKEN * state.used_cells
    return float(wanted_s * 2**stream.num_reopened)
