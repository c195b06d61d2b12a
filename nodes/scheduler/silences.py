"""Waits that nothing ends: which of many things have stayed as they are for too long. Pure.

All are looked at once a second, whatever happens meanwhile, so that events cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

LOOK_S = 1.0
# Whoever looks was asleep: what came meanwhile has not been read yet.
_ASLEEP_S = 5.0

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Wait:
    state: object
    since: float
    limit_s: float | None = None


class Silences(Generic[K]):
    """What waits, by key, and how it stood when it was first seen so."""

    def __init__(self) -> None:
        self._waits: dict[K, _Wait] = {}
        self._looked_at = -math.inf

    def is_due(self, now: float) -> bool:
        """Whether it is time for another look."""
        return now - self._looked_at >= LOOK_S

    def overdue(
        self, waiting: Iterable[tuple[K, object]], limit_s: Callable[[K], float], now: float
    ) -> list[K]:
        """Of all that wait now, those that have stood still beyond their limits; these begin anew.
        None but once a second.

        waiting: with how each stands, whose change ends a wait. limit_s: asked once a wait, when it
        has stood still from one look to the next.
        """
        if not self.is_due(now):
            return []
        before, self._waits = self._waits, {}
        if now - self._looked_at > _ASLEEP_S:
            before = {}
        self._looked_at = now
        over = []
        for key, state in waiting:
            wait = before.get(key)
            if wait is None or wait.state != state:
                wait = _Wait(state, now)
            elif wait.limit_s is None:
                wait.limit_s = limit_s(key)
            if wait.limit_s is not None and now - wait.since > wait.limit_s:
                over.append(key)
            else:
                self._waits[key] = wait
        return over
