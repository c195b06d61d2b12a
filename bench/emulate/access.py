"""The queues in front of the medium, and which stations send next: by contention or by shares."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from bench.emulate.cell import UP, Cell, Counters, Direction, Station

# 802.11 doubles its window up to 1,024 slots.
_MOST_DOUBLINGS = 5


@dataclass(slots=True, kw_only=True)
class Frame:
    """One frame in a queue.

    order: its number by arrival among all frames of the cell. tries: failures on the air so far.
    num_vanished: losses on the path so far.
    """

    payload: Any
    num_bytes: int
    air_s: float
    order: int
    tries: int = 0
    num_vanished: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Flow:
    """One direction of a station's link. waits_until: end of the first frame's back-off."""

    station: Station
    direction: Direction
    queue: deque[Frame] = field(default_factory=deque)
    queued_bytes: int = 0
    waits_until: float = 0.0
    counters: Counters = field(default_factory=Counters)

    def take(self) -> Frame:
        """Remove the first frame from the queue."""
        frame = self.queue.popleft()
        self.queued_bytes -= frame.num_bytes
        return frame


@dataclass(slots=True, kw_only=True)
class Sending:
    """The first frame of a flow, on the air.

    left_s: seconds still needed with the whole medium. rate: the part of the medium it has.
    """

    flow: Flow
    left_s: float
    rate: float = 1.0
    collides: bool = False

    @property
    def ends_in_s(self) -> float:
        return self.left_s / self.rate


class Discipline(Protocol):
    """The rule by which the stations of a cell share the medium."""

    def starts(self, flows: Sequence[Flow], on_air: Sequence[Sending], now: float) -> list[Sending]:
        """Return the frames that start now; none if all have to wait."""

    def pause_s(self, frame: Frame) -> float:
        """Return how long a frame that failed must wait before `starts` may choose it again."""


def discipline(cell: Cell, random: Random) -> Discipline:
    """Return the rule for the access of a cell."""
    return _Shares(cell, random) if cell.shares else _Contention(cell, random)


def _slots(cell: Cell, random: Random, tries: int) -> int:
    return random.randrange(cell.window << min(tries, _MOST_DOUBLINGS))


class _Contention:
    def __init__(self, cell: Cell, random: Random) -> None:
        self._cell = cell
        self._random = random

    def starts(self, flows: Sequence[Flow], on_air: Sequence[Sending], now: float) -> list[Sending]:
        if on_air:
            return []
        waiting = [flow for flow in flows if flow.queue and flow.waits_until <= now]
        contenders = [flow for flow in waiting if flow.direction == UP]
        from_hub = [flow for flow in waiting if flow.direction != UP]
        if from_hub:
            contenders.append(min(from_hub, key=lambda flow: flow.queue[0].order))
        if not contenders:
            return []
        drawn = [_slots(self._cell, self._random, flow.queue[0].tries) for flow in contenders]
        fewest = min(drawn)
        first = [flow for flow, slots in zip(contenders, drawn, strict=True) if slots == fewest]
        wait_s = fewest * self._cell.slot_s
        # Frames that collide take as long as they would alone.
        return [
            Sending(flow=flow, left_s=wait_s + flow.queue[0].air_s, collides=len(first) > 1)
            for flow in first
        ]

    def pause_s(self, frame: Frame) -> float:
        del frame  # The next draw in `starts` is the back-off.
        return 0.0


class _Shares:
    def __init__(self, cell: Cell, random: Random) -> None:
        names = [station.name for station in cell.stations]
        self._cell = cell
        self._random = random
        self._share = dict(zip(names, cell.shares, strict=True))
        self._last: dict[str, Flow] = {}

    def starts(self, flows: Sequence[Flow], on_air: Sequence[Sending], now: float) -> list[Sending]:
        busy = {sending.flow.station.name for sending in on_air}
        ready: dict[str, list[Flow]] = {}
        for flow in flows:
            if flow.queue and flow.waits_until <= now and flow.station.name not in busy:
                ready.setdefault(flow.station.name, []).append(flow)
        for name, choice in ready.items():
            # The other direction comes first, so that acknowledgements overtake data.
            others = [flow for flow in choice if flow is not self._last.get(name)]
            self._last[name] = min(others or choice, key=lambda flow: flow.queue[0].order)
        return [
            Sending(flow=flow, left_s=flow.queue[0].air_s, rate=self._share[name])
            for name in ready
            for flow in (self._last[name],)
        ]

    def pause_s(self, frame: Frame) -> float:
        return _slots(self._cell, self._random, frame.tries) * self._cell.slot_s
