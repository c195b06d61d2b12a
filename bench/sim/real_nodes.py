"""A target or draft node of a simulated mesh: the real state on a scripted engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench.sim.events import Engine
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
from policies.plan import ENTRY_BITS, TEXT_BITS

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
        self.num_passes = 0
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
                self.num_passes += 1
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
