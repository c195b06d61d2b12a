"""The queues in front of the medium, and the frames on it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from bench.emulate.cell import Counters, Direction, Station


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
