"""Running totals: what crossed the wire since the start, and how totals grew lately. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterator, Mapping
from typing import Final

from nodes.telemetry.status import WireTotal

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


class Traffic:
    """Totals by direction and message class, of which the protocol has only a few."""

    def __init__(self) -> None:
        self._num_messages = Counter[tuple[str, type]]()
        self._num_bytes = Counter[tuple[str, type]]()

    def note(self, direction: str, kind: type, num_bytes: int) -> None:
        """Count a message. direction: "in" if the coordinator received it, otherwise "out"."""
        self._num_messages[direction, kind] += 1
        self._num_bytes[direction, kind] += num_bytes

    def totals(self) -> Iterator[WireTotal]:
        for key in sorted(self._num_messages, key=lambda key: key[0]):
            direction, kind = key
            numbers = self._num_messages[key], self._num_bytes[key]
            yield WireTotal(kind.__name__, direction, *numbers)
