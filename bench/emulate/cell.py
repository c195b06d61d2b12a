"""The description of a cell, and its counters."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """One direction of a link, beyond its medium.

    loss: probability that a packet is lost. A bad state (Gilbert-Elliott) begins before a packet
    with probability `enter` and ends with probability `leave`; inside it, loss_inside applies
    instead of `loss`. jitter_s: upper bound of the extra delay of a packet; packets stay in order.
    """

    loss: float = 0.0
    enter: float = 0.0
    leave: float = 1.0
    loss_inside: float = 0.0
    jitter_s: float = 0.0


class PathState:
    """The state of one path, to which packets come in order."""

    def __init__(self, path: Path, random: Random) -> None:
        self.is_cut = False
        self._path = path
        self._random = random
        self._is_bad = False
        self._last_s = -math.inf

    def loses(self) -> bool:
        """Draw whether the next packet is lost."""
        path, draw = self._path, self._random.random
        if path.enter:
            changes = draw() < (path.leave if self._is_bad else path.enter)
            self._is_bad ^= changes
        loss = path.loss_inside if self._is_bad else path.loss
        return self.is_cut or (loss > 0.0 and draw() < loss)

    def arrives_s(self, at_s: float) -> float:
        """Draw the arrival time of a packet that would arrive at at_s without jitter."""
        if self._path.jitter_s:
            at_s += self._random.random() * self._path.jitter_s
        self._last_s = max(self._last_s, at_s)
        return self._last_s


Direction = Literal["up", "down"]
UP: Direction = "up"
DOWN: Direction = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """One station, connected to the hub over the cell's medium.

    rate_bps: rate in both directions, with the whole medium. loss: probability that a frame fails
    on the air; it is then sent again. delay_s: propagation time after a frame's airtime. path: loss
    and jitter after the airtime, in each direction; such a loss is final. queue_bytes: limit of
    each direction's queue; frames beyond it are dropped.
    """

    name: str
    rate_bps: float
    loss: float = 0.0
    delay_s: float = 0.0
    path: Path = field(default_factory=Path)
    queue_bytes: int = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A medium and its stations.

    shares: one per station, each above 0, their sum at most 1: the constant share of the medium
    that a station has for both directions of its link, unused while it is silent. Without shares,
    stations with frames draw back-off slots: the fewest win, and equal ones collide. The hub is
    then one contender, with the frames to all stations in order of arrival. frame_s: fixed airtime
    of each frame. slot_s: duration of a back-off slot. window: number of slots from which the first
    back-off is drawn; each failure of the frame doubles it; 0 if all frames are sent in order of
    arrival, without back-off and collisions. max_tries: the frame is given up after so many
    failures.
    """

    stations: tuple[Station, ...]
    shares: tuple[float, ...] = ()
    frame_s: float = 0.0
    slot_s: float = 20e-6
    window: int = 32
    max_tries: int = 7
    seed: int = 0


@dataclass(slots=True)
class Counters:
    """Counters of one station and direction. air_s: airtime of frames, failed tries included.

    num_frames, num_bytes: delivered. num_dropped: frames that found the queue full. num_lost,
    num_collided: tries that failed. num_given_up: frames that failed max_tries times. num_vanished:
    frames that passed the air and were lost on the path.
    """

    air_s: float = 0.0
    num_frames: int = 0
    num_bytes: int = 0
    num_dropped: int = 0
    num_lost: int = 0
    num_collided: int = 0
    num_given_up: int = 0
    num_vanished: int = 0

    def __sub__(self, before: Counters) -> Counters:
        earlier = asdict(before)
        return Counters(**{name: value - earlier[name] for name, value in asdict(self).items()})


CountersOf = dict[tuple[str, Direction], Counters]
