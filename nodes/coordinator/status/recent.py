"""What running totals have grown by in the last seconds. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping
from typing import Final

STEP_S: Final = 1.0
WINDOW_S: Final = 10.0

Totals = Mapping[Hashable, float]


class Recent:
    """Keeps totals of each second of the last ten."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, Totals]] = deque(maxlen=round(WINDOW_S / STEP_S) + 1)

    def is_due(self, now: float) -> bool:
        return not self._kept or now >= self._kept[-1][0] + STEP_S

    def keep(self, totals: Totals, now: float) -> None:
        self._kept.append((now, totals))

    def rate(self, name: Hashable, total: float, now: float) -> float:
        """Growth a second of a total over what is kept of it; 0.0 for a new one."""
        for at, totals in self._kept:
            if now - at <= WINDOW_S + STEP_S and now > at and name in totals:
                return max(0.0, total - float(totals[name])) / (now - at)
        return 0.0
