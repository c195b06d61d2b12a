"""Finds what has waited too long, and looks after the streams of a target once a second. Pure.

Waits are checked independently of events, so that events cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from nodes.scheduler import following
from nodes.scheduler.comparison import Speculation
from nodes.scheduler.instructions import Instruction
from nodes.worker.stream import StreamId

if TYPE_CHECKING:
    from nodes.scheduler.scheduler import Scheduler

# Seconds between two checks, and between two plans.
LOOK_S = 1.0
# A longer time between two checks means that this process was suspended, and that messages which
# arrived meanwhile have not been read yet.
_SUSPENDED_S = 5.0
# Seconds after which a stream without progress counts as stuck, and as many more for each token
# that may have to be read first. Machines that swap and slow boards need that long.
_SILENT_S: Final = 60.0
_SILENT_S_PER_TOKEN: Final = 0.1
# A stream, and whether it waits for its draft node to read the text or for tokens of the target.
Pending = tuple[StreamId, bool]

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Wait:
    state: object
    since: float
    limit_s: float | None = None


class Silences(Generic[K]):
    """The waiting items by key, each with its state and the time when this state was first seen."""

    def __init__(self) -> None:
        self._waits: dict[K, _Wait] = {}
        self._looked_at = -math.inf

    def is_due(self, now: float) -> bool:
        """Whether a second has passed since the last check."""
        return now - self._looked_at >= LOOK_S

    def overdue(
        self, waiting: Iterable[tuple[K, object]], limit_s: Callable[[K], float], now: float
    ) -> list[K]:
        """Returns the items whose state has not changed for longer than their limits.

        Their waits then start anew. Call it once is_due(). waiting: the items that wait now, each
        with its state; a changed state starts a new wait. limit_s: called once for each wait, when
        the state was the same in two checks.
        """
        before, self._waits = self._waits, {}
        if now - self._looked_at > _SUSPENDED_S:
            before = {}
        self._looked_at = now
        overdue = []
        for key, state in waiting:
            wait = before.get(key)
            if wait is None or wait.state != state:
                wait = _Wait(state, now)
            elif wait.limit_s is None:
                wait.limit_s = limit_s(key)
            if wait.limit_s is not None and now - wait.since > wait.limit_s:
                overdue.append(key)
            else:
                self._waits[key] = wait
        return overdue


def look_after(scheduler: Scheduler, now: float) -> list[Instruction]:
    """End waits that last too long, and choose draft nodes anew."""
    out: list[Instruction] = []
    patience_s = partial(_patience_s, scheduler)
    for stream_id, is_reading in scheduler.silences.overdue(_pending(scheduler), patience_s, now):
        stream = scheduler.streams.get(stream_id)
        if stream is not None and is_reading:
            # The request to follow or its answer was lost. The stream would never be guessed for,
            # and decoding with and without guesses would never be compared.
            reason = "a draft node did not report that it has read the text"
            out += following.leave(scheduler, stream, reason)
        elif stream is not None:
            error = "the target sent no tokens of this stream, even after it was opened again"
            out += scheduler.reopen(stream, error)
    out += following.leave_full(scheduler)
    for stream in scheduler.streams.values():
        out += following.find_follower(scheduler, stream)
    return out + following.rebalance(scheduler)


def _pending(scheduler: Scheduler) -> Iterator[tuple[Pending, object]]:
    """Yields what streams wait for, each with a state that changes when there is progress."""
    used = scheduler.used_cells
    # In a pause a draft node does not receive the rest of a long text.
    is_on = scheduler.speculation is Speculation.ON
    for stream_id, s in scheduler.streams.items():
        if is_on and s.follow is not None and not s.follow.is_ready:
            yield (stream_id, True), s.follow.number
        # A parked stream waits for the others to end, so what they get counts as its progress.
        state = s.spec.generation, len(s.token_ids), s.phase, s.is_parked and used
        yield (stream_id, False), state


def _patience_s(scheduler: Scheduler, pending: Pending) -> float:
    """Returns the seconds without progress after which a wait is too long."""
    stream_id, is_reading = pending
    stream = scheduler.streams[stream_id]
    follow = stream.follow
    if is_reading and follow is not None:
        return _SILENT_S + _SILENT_S_PER_TOKEN * scheduler.drafts[follow.node].num_unread
    wanted_s = _SILENT_S + _SILENT_S_PER_TOKEN * scheduler.used_cells
    return float(wanted_s * 2**stream.num_reopened)
