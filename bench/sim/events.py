"""Virtual time: a queue of events, media that delay messages, and devices that run passes."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from random import Random

from policies.latency import NodeCosts
from policies.plan import HEADER_BITS, Link


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
    """A medium that several links share: one sender at a time, first come first served."""

    def __init__(self) -> None:
        self.free_at = 0.0

    def send(self, clock: Clock, link: Link, bits: int, action: Callable[[], None]) -> None:
        """Carry a message over a link; action runs when it arrives."""
        air_s = link.airtime_s(HEADER_BITS + bits, 1)
        start = max(clock.now, self.free_at)
        self.free_at = start + air_s
        clock.at(start + air_s + link.rtt_s / 2, action)


class Engine:
    """One device. It runs one pass at a time, for as long as the scenario's true cost tables say,
    which the scheduler need not know, with log-normal noise."""

    def __init__(self, clock: Clock, costs: NodeCosts, noise: float, random: Random) -> None:
        self.clock, self.costs, self.noise, self.random = clock, costs, noise, random
        self.busy_s = 0.0
        self.is_busy = False

    def run_pass(
        self, num_decode: int, num_prefill: int, cells: int, done: Callable[[], None]
    ) -> None:
        # A token costs the same whichever sequence of the pass it belongs to.
        if num_decode:
            seconds = self.costs.decode.at(num_decode + num_prefill, cells)
        else:
            seconds = self.costs.prefill.at(num_prefill, cells)
        seconds *= self.random.lognormvariate(0.0, self.noise)
        self.busy_s += seconds
        self.is_busy = True
        self.clock.after(seconds, done)
