"""Decide which stations send next: by contention, turns or shares."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Protocol

from bench.emulate.cell import UP, Cell, Contention, Shares, Turns
from bench.emulate.flows import Flow, Frame, Sending

# 802.11 doubles its window up to 1,024 slots.
_MOST_DOUBLINGS = 5


class Discipline(Protocol):
    """The rule by which the stations of a cell share the medium."""

    def starts(self, flows: Sequence[Flow], on_air: Sequence[Sending], now: float) -> list[Sending]:
        """Return the frames that start now; none if all have to wait."""

    def set_rates(self, on_air: Sequence[Sending]) -> None:
        """Set the part of the medium that each frame on the air has from now on."""

    def pause_s(self, frame: Frame) -> float:
        """Return how long a frame that failed must wait before `starts` may choose it again."""


def discipline(cell: Cell, random: Random) -> Discipline:
    """Return the rule for the access of a cell."""
    match cell.access:
        case Contention():
            return _Contention(cell, random)
        case Turns():
            return _Turns(cell, random)
        case Shares():
            return _Shares(cell, cell.access, random)


def _slots(cell: Cell, random: Random, tries: int) -> int:
    return random.randrange(cell.window << min(tries, _MOST_DOUBLINGS))


class _OneAtATime:
    def __init__(self, cell: Cell, random: Random) -> None:
        self._cell = cell
        self._random = random

    def set_rates(self, on_air: Sequence[Sending]) -> None:
        del on_air  # Frames that collide take as long as they would alone.

    def pause_s(self, frame: Frame) -> float:
        return _slots(self._cell, self._random, frame.tries) * self._cell.slot_s


class _Contention(_OneAtATime):
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
        return [
            Sending(flow=flow, left_s=wait_s + flow.queue[0].air_s, collides=len(first) > 1)
            for flow in first
        ]

    def pause_s(self, frame: Frame) -> float:
        del frame  # The next draw in `starts` is the back-off.
        return 0.0


class _Turns(_OneAtATime):
    def __init__(self, cell: Cell, random: Random) -> None:
        super().__init__(cell, random)
        self._holder = ""
        self._last: Flow | None = None

    def starts(self, flows: Sequence[Flow], on_air: Sequence[Sending], now: float) -> list[Sending]:
        if on_air:
            return []
        waiting = [flow for flow in flows if flow.queue]
        if not waiting:
            return []
        if all(flow.station.name != self._holder for flow in waiting):
            self._holder = min(waiting, key=lambda flow: flow.queue[0].order).station.name
        ready = [
            flow
            for flow in waiting
            if flow.station.name == self._holder and flow.waits_until <= now
        ]
        if not ready:
            return []
        self._last = _alternate(ready, self._last)
        return [Sending(flow=self._last, left_s=self._last.queue[0].air_s)]


class _Shares:
    def __init__(self, cell: Cell, shares: Shares, random: Random) -> None:
        names = [station.name for station in cell.stations]
        self._cell = cell
        self._random = random
        self._share = dict(zip(names, shares.shares, strict=True))
        self._last: dict[str, Flow] = {}

    def starts(self, flows: Sequence[Flow], on_air: Sequence[Sending], now: float) -> list[Sending]:
        busy = {sending.flow.station.name for sending in on_air}
        ready: dict[str, list[Flow]] = {}
        for flow in flows:
            if flow.queue and flow.waits_until <= now and flow.station.name not in busy:
                ready.setdefault(flow.station.name, []).append(flow)
        for name, choice in ready.items():
            self._last[name] = _alternate(choice, self._last.get(name))
        return [
            Sending(flow=self._last[name], left_s=self._last[name].queue[0].air_s) for name in ready
        ]

    def set_rates(self, on_air: Sequence[Sending]) -> None:
        for sending in on_air:
            sending.rate = self._share[sending.flow.station.name]

    def pause_s(self, frame: Frame) -> float:
        return _slots(self._cell, self._random, frame.tries) * self._cell.slot_s


def _alternate(ready: list[Flow], last: Flow | None) -> Flow:
    """Return the next flow: the other direction first, so that acknowledgements overtake data."""
    others = [flow for flow in ready if flow is not last]
    return min(others or ready, key=lambda flow: flow.queue[0].order)
