"""The shared medium of a cell, a pure state: frames and `now` in, departures out."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from bench.emulate.cell import DOWN, UP, Cell, Counters, CountersOf, Direction, PathState, Station

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


def _slots(cell: Cell, random: Random, tries: int) -> int:
    return random.randrange(cell.window << min(tries, _MOST_DOUBLINGS))


class _Contention:
    """Stations with frames draw back-off slots, or send in order of arrival without a window."""

    def __init__(self, cell: Cell, random: Random) -> None:
        self._cell = cell
        self._random = random

    def starts(self, flows: Sequence[Flow], on_air: Sequence[Sending], now: float) -> list[Sending]:
        """Returns the frames that start now; none if all have to wait."""
        if on_air:
            return []
        waiting = [flow for flow in flows if flow.queue and flow.waits_until <= now]
        contenders = [flow for flow in waiting if flow.direction == UP]
        from_hub = [flow for flow in waiting if flow.direction != UP]
        if from_hub:
            contenders.append(min(from_hub, key=lambda flow: flow.queue[0].order))
        if not contenders:
            return []
        if self._cell.window == 0:
            oldest = min(contenders, key=lambda flow: flow.queue[0].order)
            return [Sending(flow=oldest, left_s=oldest.queue[0].air_s)]
        drawn = [_slots(self._cell, self._random, flow.queue[0].tries) for flow in contenders]
        fewest = min(drawn)
        first = [flow for flow, slots in zip(contenders, drawn, strict=True) if slots == fewest]
        wait_s = fewest * self._cell.slot_s
        # Frames that collide take as long as they would alone.
        return [
            Sending(flow=flow, left_s=wait_s + flow.queue[0].air_s, collides=len(first) > 1)
            for flow in first
        ]

    def pause_s(self, _frame: Frame) -> float:
        """Returns how long a frame that failed must wait before `starts` may choose it again."""
        # The next draw in `starts` is the back-off.
        return 0.0


class _Shares:
    """Each station has a constant share of the medium."""

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


# Limit for doubling the timeout of a retransmission.
_MOST_RESEND_DOUBLINGS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """A delivered frame. arrives_s: on the clock of `now`, propagation included."""

    station: str
    direction: Direction
    payload: Any
    arrives_s: float


class Medium:
    """The stations of a cell and the hub, on one medium.

    Events between two calls happen at their own times, however late the second call comes. A late
    call therefore delays the frames that it returns, and no later ones.

    resend_s: if given, a frame that is lost on its path blocks its direction and is sent again
    after so many seconds, which double with each loss, as in a byte stream. None: it is gone.
    """

    def __init__(self, cell: Cell, *, resend_s: float | None = None) -> None:
        self._cell = cell
        self._resend_s = resend_s
        self._random = Random(cell.seed)
        self._discipline = (_Shares if cell.shares else _Contention)(cell, self._random)
        self._flows = {
            (station.name, direction): Flow(station=station, direction=direction)
            for station in cell.stations
            for direction in (UP, DOWN)
        }
        self._all = list(self._flows.values())
        # Each path has its own random numbers, so its losses do not depend on other paths' frames.
        self._paths = {
            key: PathState(flow.station.path, Random(f"{cell.seed} {key}"))
            for key, flow in self._flows.items()
        }
        self._on_air: list[Sending] = []
        self._under_way: list[tuple[float, int, Departure]] = []
        self._now = -math.inf
        self._num_offered = 0
        self._num_sent = 0

    def has_room(self, station: str, direction: Direction, num_bytes: int) -> bool:
        """Returns whether the queue can take a frame of this size."""
        flow = self._flows[station, direction]
        return flow.queued_bytes + num_bytes <= flow.station.queue_bytes

    def offer(
        self, station: str, direction: Direction, num_bytes: int, payload: Any, now: float
    ) -> bool:
        """Queue a frame; return False if the queue is full and the frame was dropped.

        num_bytes: size on the air, headers included. now: never earlier than in calls before.
        """
        self._run(now)
        flow = self._flows[station, direction]
        if not self.has_room(station, direction, num_bytes):
            flow.counters.num_dropped += 1
            return False
        flow.queue.append(
            Frame(
                payload=payload,
                num_bytes=num_bytes,
                air_s=self._cell.frame_s + num_bytes * 8 / flow.station.rate_bps,
                order=self._num_offered,
            )
        )
        flow.queued_bytes += num_bytes
        self._num_offered += 1
        self._start()
        return True

    def advance(self, now: float) -> list[Departure]:
        """Returns the frames that have arrived since the last call, in order of arrival."""
        self._run(now)
        arrived = []
        while self._under_way and self._under_way[0][0] <= now:
            arrived.append(heapq.heappop(self._under_way)[2])
        return arrived

    def next_event_s(self) -> float:
        """Returns the time of the next event if no frame is offered before; infinity for none."""
        first = self._under_way[0][0] if self._under_way else math.inf
        return min(first, self._next_change_s())

    def cut(self, station: str, direction: Direction, now: float, *, ends: bool = False) -> None:
        """Lose every frame that passes the air in this direction; no longer if the cut ends."""
        self._run(now)
        self._paths[station, direction].is_cut = not ends

    def counters(self) -> CountersOf:
        return {key: replace(flow.counters) for key, flow in self._flows.items()}

    def _run(self, now: float) -> None:
        while (change_s := self._next_change_s()) <= now:
            self._pass_time(change_s)
            self._end(change_s)
            self._start()
        self._pass_time(now)

    def _next_change_s(self) -> float:
        """Returns the time of the next end of a frame or of a back-off."""
        ends = [self._now + sending.ends_in_s for sending in self._on_air]
        waits = [f.waits_until for f in self._all if f.queue and f.waits_until > self._now]
        return min(ends + waits, default=math.inf)

    def _pass_time(self, now: float) -> None:
        for sending in self._on_air:
            # Rounding must not leave a rest, or this end would be found again and again.
            gone = self._now + sending.ends_in_s <= now
            sending.left_s = 0.0 if gone else sending.left_s - (now - self._now) * sending.rate
        self._now = now

    def _end(self, now: float) -> None:
        ended = [sending for sending in self._on_air if sending.left_s <= 0.0]
        self._on_air = [sending for sending in self._on_air if sending.left_s > 0.0]
        for sending in ended:
            flow = sending.flow
            frame = flow.queue[0]
            flow.counters.air_s += frame.air_s
            lost = not sending.collides and self._random.random() < flow.station.loss
            if sending.collides or lost:
                flow.counters.num_lost += lost
                flow.counters.num_collided += sending.collides
                self._failed(flow, frame)
            elif self._paths[flow.station.name, flow.direction].loses():
                self._vanished(flow, frame)
            else:
                self._passed(flow, flow.take(), now)

    def _failed(self, flow: Flow, frame: Frame) -> None:
        frame.tries += 1
        if frame.tries >= self._cell.max_tries:
            flow.counters.num_given_up += 1
            flow.take()
        else:
            flow.waits_until = self._now + self._discipline.pause_s(frame)

    def _vanished(self, flow: Flow, frame: Frame) -> None:
        flow.counters.num_vanished += 1
        if self._resend_s is None:
            flow.take()
            return
        doublings = min(frame.num_vanished, _MOST_RESEND_DOUBLINGS)
        flow.waits_until = self._now + self._resend_s * 2**doublings
        frame.num_vanished += 1

    def _passed(self, flow: Flow, frame: Frame, now: float) -> None:
        flow.counters.num_frames += 1
        flow.counters.num_bytes += frame.num_bytes
        path = self._paths[flow.station.name, flow.direction]
        departure = Departure(
            station=flow.station.name,
            direction=flow.direction,
            payload=frame.payload,
            arrives_s=path.arrives_s(now + flow.station.delay_s),
        )
        heapq.heappush(self._under_way, (departure.arrives_s, self._num_sent, departure))
        self._num_sent += 1

    def _start(self) -> None:
        self._on_air += self._discipline.starts(self._all, self._on_air, self._now)
