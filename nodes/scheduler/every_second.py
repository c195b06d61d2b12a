"""Looks after the streams of a target once a second: ends waits that last too long, and chooses
draft nodes anew. Pure.

Waits are checked independently of events, so that events cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

from nodes.scheduler import following
from nodes.scheduler.comparison import Speculation
from nodes.scheduler.endings import reopen
from nodes.scheduler.instructions import Instruction
from nodes.scheduler.silences import Awaited
from nodes.scheduler.state import SchedulerState

# Seconds after which a stream without progress counts as stuck, and as many more for each token
# that may have to be read first. Machines that swap and slow boards need that long.
_SILENT_S: Final = 60.0
_SILENT_S_PER_TOKEN: Final = 0.1


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
