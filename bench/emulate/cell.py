"""The description of a cell, and its counters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from bench.emulate.path import Path

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

    def __post_init__(self) -> None:
        if not self.rate_bps > 0.0:
            raise ValueError(f"station {self.name}: rate_bps must be above 0, got {self.rate_bps}")
        if not 0.0 <= self.loss < 1.0:
            raise ValueError(f"station {self.name}: loss must be in [0, 1), got {self.loss}")
        if not (0.0 <= self.delay_s < float("inf") and self.queue_bytes > 0):
            raise ValueError(
                f"station {self.name}: delay_s must be finite and at least 0, queue_bytes above 0, "
                f"got {self.delay_s} and {self.queue_bytes}"
            )


@dataclass(frozen=True, slots=True)
class Contention:
    """Stations with frames draw back-off slots: the fewest win, and equal ones collide.

    The hub is one contender, with the frames to all stations in order of arrival.
    """


@dataclass(frozen=True, slots=True)
class Turns:
    """A station keeps the medium until neither it nor the hub has frames left on its link.

    order: names of stations; the first one that has frames comes next. Stations that are not named
    come after them, the one whose frame has waited longest first.
    """

    order: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shares:
    """Each station has a constant share of the medium, for both directions of its link.

    shares: one per station, each above 0, their sum at most 1. reserved: a share stays unused while
    its station is silent; otherwise the others get it, in proportion to their own shares.
    """

    shares: tuple[float, ...]
    reserved: bool = True


Access = Contention | Turns | Shares
_ACCESSES: dict[str, type[Contention | Turns | Shares]] = {
    kind.__name__: kind for kind in (Contention, Turns, Shares)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A medium and its stations.

    frame_s: fixed airtime of each frame. slot_s: duration of a back-off slot. window: number of
    slots from which the first back-off is drawn; each failure of the frame doubles it. max_tries:
    the frame is given up after so many failures.
    """

    stations: tuple[Station, ...]
    access: Access
    frame_s: float = 0.0
    slot_s: float = 20e-6
    window: int = 32
    max_tries: int = 7
    seed: int = 0

    def __post_init__(self) -> None:
        names = [station.name for station in self.stations]
        if len(set(names)) != len(names):
            raise ValueError(f"stations must have different names, got {names}")
        if min(self.frame_s, self.slot_s) < 0.0 or min(self.window, self.max_tries) < 1:
            raise ValueError(
                "a cell's frame_s and slot_s must be at least 0, window and max_tries at least 1"
            )
        if isinstance(self.access, Shares):
            shares = self.access.shares
            if len(shares) != len(names) or not all(share > 0.0 for share in shares):
                raise ValueError(f"{len(names)} stations need a share above 0 each, got {shares}")
            if sum(shares) > 1.0 + 1e-9:
                raise ValueError(f"the sum of shares must be at most 1, got {sum(shares):g}")
        if isinstance(self.access, Turns) and not set(self.access.order) <= set(names):
            raise ValueError(f"turns must name stations of the cell, got {self.access.order}")

    def as_fields(self) -> dict[str, Any]:
        """Return the cell as fields that JSON can hold, for another process."""
        return {**asdict(self), "access": [type(self.access).__name__, asdict(self.access)]}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Cell:
        """Build a cell from the result of `as_fields`."""
        kind, values = fields["access"]
        tuples: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        stations = tuple(
            Station(**{**station, "path": Path(**station["path"])})
            for station in fields["stations"]
        )
        return cls(**{**fields, "stations": stations, "access": _ACCESSES[kind](**tuples)})


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
