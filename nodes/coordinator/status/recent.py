"""Computes the growth of running totals in the last seconds. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping
from typing import Final

STEP_S: Final = 1.0
WINDOW_S: Final = 10.0

Totals = Mapping[Hashable, float]


class Recent:
    """Keeps the totals at each of the last ten seconds."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, Totals]] = deque(maxlen=round(WINDOW_S / STEP_S) + 1)

    def is_due(self, now: float) -> bool:
        return not self._kept or now >= self._kept[-1][0] + STEP_S

    def keep(self, totals: Totals, now: float) -> None:
        self._kept.append((now, totals))

    def rate(self, name: Hashable, total: float, now: float) -> float:
        """Return a total's growth per second over the kept time; 0.0 for a new total."""
        for at, totals in self._kept:
            if now - at <= WINDOW_S + STEP_S and now > at and name in totals:
                return max(0.0, total - float(totals[name])) / (now - at)
        return 0.0
