"""Finds what has waited too long, and looks after the streams of a target once a second. Pure.

Waits are checked independently of events, so that events cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from airdraft.nodes.worker.stream import StreamId

# Seconds between two checks, and between two plans.
LOOK_S = 1.0
# A longer time between two checks means that this process was suspended, and that messages which
# arrived meanwhile have not been read yet.
_SUSPENDED_S = 5.0
# A stream, and whether it waits for its draft node to read the text or for tokens of the target.
Awaited = tuple[StreamId, bool]

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Silence:
    state: object
    since: float
    limit_s: float | None = None


class Silences(Generic[K]):
    """The waiting items by key, each with its state and the time when this state was first seen."""

    def __init__(self) -> None:
        self._silences: dict[K, _Silence] = {}
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
        before, self._silences = self._silences, {}
        if now - self._looked_at > _SUSPENDED_S:
            before = {}
        self._looked_at = now
        overdue = []
        for key, state in waiting:
            silence = before.get(key)
            if silence is None or silence.state != state:
                silence = _Silence(state, now)
            elif silence.limit_s is None:
                silence.limit_s = limit_s(key)
            if silence.limit_s is not None and now - silence.since > silence.limit_s:
                overdue.append(key)
            else:
                self._silences[key] = silence
        return overdue
