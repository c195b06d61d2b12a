"""Devices and media in virtual time, and nodes on them: real states on scripted engines."""

from __future__ import annotations

import heapq
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any, NamedTuple

from airdraft.nodes.messages import (
    CommitNotice,
    CommitReply,
    GuessNotice,
    HoldNotice,
    LeaseRequest,
    OpenStreamRequest,
)
from airdraft.nodes.target.state import TargetState
from airdraft.policies.latency import NodeCosts
from airdraft.policies.plan import ENTRY_BITS, HEADER_BITS, TEXT_BITS, Link
from bench.emulate.cell import Cell, Direction
from bench.emulate.medium import Medium as CellMedium
from bench.sim.scripted import ScriptedModel, Work


class Clock:
    """Runs events in order of time; events of one instant run in the order they were added."""

    def __init__(self) -> None:
        self.now = 0.0
        self.num_events = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, time_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), action))

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        self.at(self.now + delay_s, action)

    def run(self, until_s: float) -> None:
        """Run all events that are due until until_s."""
        while self._events and self._events[0][0] <= until_s:
            self.now, _, action = heapq.heappop(self._events)
            self.num_events += 1
            action()
        self.now = max(self.now, until_s)


class Medium:
    """What a message occupies while it is sent: a medium that several links share, or one direction
    of a link of its own. One message at a time, first come first served."""

    def __init__(self) -> None:
        self.free_at = 0.0

    def send(self, clock: Clock, link: Link, bits: int, action: Callable[[], None]) -> None:
        """Carry a message over a link; action runs when it arrives."""
        air_s = link.airtime_s(HEADER_BITS + bits, 1)
        start = max(clock.now, self.free_at)
        self.free_at = start + air_s
        clock.at(start + air_s + link.rtt_s / 2, action)


class Device(NamedTuple):
    """A device in virtual time. costs: the true ones, which the scheduler need not know. noise:
    deviation of the logarithm of a pass's time."""

    clock: Clock
    costs: NodeCosts
    noise: float
    random: Random

    def pass_s(self, work: Work) -> float:
        """Draw the seconds of a pass."""
        # A token costs the same whichever sequence of the pass it belongs to.
        table = self.costs.decode if work.num_decoded else self.costs.prefill
        seconds = table.at(work.num_decoded + work.num_read, work.used_cells)
        return seconds * self.random.lognormvariate(0.0, self.noise)


class Air:
    """The medium of emulated cells in virtual time. What collides is sent until it arrives."""

    def __init__(self, clock: Clock, cell: Cell) -> None:
        stations = (replace(station, queue_bytes=sys.maxsize) for station in cell.stations)
        self._medium = CellMedium(replace(cell, stations=tuple(stations), max_tries=sys.maxsize))
        self._clock = clock
        self._next_s = math.inf

    def send(
        self, station: str, direction: Direction, bits: int, action: Callable[[], None]
    ) -> None:
        """Send a message as one frame; action runs when it arrives."""
        num_bytes = -(-(HEADER_BITS + bits) // 8)
        self._medium.offer(station, direction, num_bytes, action, self._clock.now)
        self._wait()

    def _wait(self) -> None:
        next_s = self._medium.next_event_s()
        if next_s < self._next_s:
            self._next_s = next_s
            self._clock.at(next_s, self._deliver)

    def _deliver(self) -> None:
        self._next_s = math.inf
        for departure in self._medium.advance(self._clock.now):
            departure.payload()
        self._wait()


_TOKEN_BITS = 32
_CHANCE_BITS = 8


class SimNode:
    """A real node state on a scripted engine, which runs one pass at a time. Messages that arrive
    during a pass wait."""

    def __init__(
        self,
        device: Device,
        model: ScriptedModel,
        state: Any,
        apply: Callable[[Any, Any], Sequence[object]],
        deliver: Callable[[Sequence[object], float], None],
    ) -> None:
        self.is_alive = True
        self._device, self._clock = device, device.clock
        self._model, self._state = model, state
        self._apply, self._deliver = apply, deliver
        self._is_busy = False
        self._inbox: list[Any] = []

    def receive(self, message: Any) -> None:
        if not self.is_alive:
            return
        if self._is_busy:
            self._inbox.append(message)
            return
        self._take(message)
        self._begin()

    def _take(self, message: Any) -> None:
        events = self._apply(self._state, message)
        if events:
            self._deliver(events, 0.0)

    def _begin(self) -> None:
        while self.is_alive and self._state.has_work():
            if isinstance(self._state, TargetState):
                wait_s = self._state.schedule_pass(self._clock.now)
                if wait_s > 0.0:
                    self._clock.after(wait_s + 1e-9, self._wake)
                    return
            events = self._state.step()
            if (work := self._model.take_work()) is not None:
                self._is_busy = True
                seconds = self._device.pass_s(work)
                self._clock.after(seconds, partial(self._end, events, self._clock.now))
                return
            if not events:
                return
            self._deliver(events, 0.0)

    def _wake(self) -> None:
        if not self._is_busy:
            self._begin()

    def _end(self, events: Sequence[object], started: float) -> None:
        self._is_busy = False
        if not self.is_alive:
            return
        seconds = self._clock.now - started
        self._state.passed(seconds, self._clock.now)
        self._deliver(events, seconds)
        waiting, self._inbox = self._inbox, []
        for message in waiting:
            self._take(message)
        self._begin()


def bits_of(message: Any) -> int:
    """Returns the bits of a message's entries and tokens."""
    match message:
        case CommitReply(entries=entries, token_ids=ids):
            return len(entries) * ENTRY_BITS + len(ids) * (_TOKEN_BITS + TEXT_BITS)
        case CommitNotice(entries=entries, new_token_ids=ids):
            return len(entries) * ENTRY_BITS + len(ids) * _TOKEN_BITS
        case GuessNotice(parts=parts, token_ids=ids):
            return len(parts) * ENTRY_BITS + len(ids) * (_TOKEN_BITS + _CHANCE_BITS)
        case LeaseRequest(entries=entries) | HoldNotice(entries=entries):
            return len(entries) * ENTRY_BITS
        case OpenStreamRequest(token_ids=ids):
            return ENTRY_BITS + len(ids) * _TOKEN_BITS
    return ENTRY_BITS
