"""Devices and media in virtual time, and nodes on them: real states on scripted engines."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

from bench.sim.scripted import ScriptedModel
from nodes.messages import (
    CommitNotice,
    CommitReply,
    GuessNotice,
    HoldNotice,
    LeaseRequest,
    OpenStreamRequest,
)
from nodes.target.state import TargetState
from policies.latency import NodeCosts
from policies.plan import ENTRY_BITS, HEADER_BITS, TEXT_BITS, Link


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
        self.is_busy = True
        self.clock.after(seconds, done)


_TOKEN_BITS = 32
_CHANCE_BITS = 8


class SimNode:
    """A real node state on a scripted engine. Messages that arrive during a pass wait."""

    def __init__(
        self,
        engine: Engine,
        model: ScriptedModel,
        state: Any,
        apply: Callable[[Any, Any], Sequence[object]],
        deliver: Callable[[Sequence[object], float], None],
    ) -> None:
        self.engine, self.model, self.state = engine, model, state
        self._apply, self._deliver = apply, deliver
        self._inbox: list[Any] = []
        self.is_alive = True

    def receive(self, message: Any) -> None:
        if not self.is_alive:
            return
        if self.engine.is_busy:
            self._inbox.append(message)
            return
        self._take(message)
        self._begin()

    def _take(self, message: Any) -> None:
        events = self._apply(self.state, message)
        if events:
            self._deliver(events, 0.0)

    def _begin(self) -> None:
        while self.is_alive and self.state.has_work():
            if isinstance(self.state, TargetState):
                clock = self.engine.clock
                patience_s = self.state.patience_s(clock.now)
                if patience_s > 0.0:
                    clock.at(clock.now + patience_s + 1e-9, self._wake)
                    return
            events = self.state.step()
            work = self.model.take_work()
            if work is not None:
                started = self.engine.clock.now
                sizes = work.num_decoded, work.num_read, work.used_cells
                self.engine.run_pass(*sizes, partial(self._end, events, started))
                return
            if not events:
                return
            self._deliver(events, 0.0)

    def _wake(self) -> None:
        if not self.engine.is_busy:
            self._begin()

    def _end(self, events: Sequence[object], started: float) -> None:
        self.engine.is_busy = False
        if not self.is_alive:
            return
        seconds = self.engine.clock.now - started
        if isinstance(self.state, TargetState):
            self.state.passed(seconds, self.engine.clock.now)
        self._deliver(events, seconds)
        waiting, self._inbox = self._inbox, []
        for message in waiting:
            self._take(message)
        self._begin()


def bits_of(message: Any) -> int:
    """Return the bits of a message's entries and tokens."""
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
