"""What a cell is made of, and what is counted of it."""

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
    """One station, joined to the hub over the cell's medium.

    rate_bps: in both directions, when it has the medium alone. loss: of a frame, which is then sent
    again. delay_s: propagation, after a frame's air; path: what may happen then, for good, in each
    direction. queue_bytes: of each direction; more is dropped.
    """

    name: str
    rate_bps: float
    loss: float = 0.0
    delay_s: float = 0.0
    path: Path = field(default_factory=Path)
    queue_bytes: int = 64 * 1024

    def __post_init__(self) -> None:
        if not self.rate_bps > 0.0:
            raise ValueError(f"station {self.name}: rate_bps is more than 0, got {self.rate_bps}")
        if not 0.0 <= self.loss < 1.0:
            raise ValueError(f"station {self.name}: loss is 0 to less than 1, got {self.loss}")
        if not (0.0 <= self.delay_s < float("inf") and self.queue_bytes > 0):
            raise ValueError(f"station {self.name}: delay_s and queue_bytes are not negative")


@dataclass(frozen=True, slots=True)
class Contention:
    """Whoever has frames draws back-off slots for each; the fewest win, equal ones collide.

    The hub is one contender, with the frames of all stations in order of arrival.
    """


@dataclass(frozen=True, slots=True)
class Turns:
    """A station keeps the medium until neither it nor the hub has frames left on its link.

    order: names; the first of them that has frames comes next. Without it, whose frame has waited
    longest.
    """

    order: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shares:
    """Each station has a constant share of the medium, for both directions of its link.

    shares: one a station, more than 0, at most 1 together. reserved: a share is kept while its
    station is silent; otherwise the others have it, in proportion to their own.
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

    frame_s: fixed time of each frame. slot_s, window: the unit of back-off, and of how many of them
    a first one is drawn; doubled at each failure of the frame. max_tries: then it is given up.
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
            raise ValueError(f"stations have different names, got {names}")
        if min(self.frame_s, self.slot_s) < 0.0 or min(self.window, self.max_tries) < 1:
            raise ValueError("a cell's times are not negative, its window and max_tries at least 1")
        if isinstance(self.access, Shares):
            shares = self.access.shares
            if len(shares) != len(names) or not all(share > 0.0 for share in shares):
                raise ValueError(f"each of {len(names)} stations has a share above 0: {shares}")
            if sum(shares) > 1.0 + 1e-9:
                raise ValueError(f"shares are at most 1 together, got {sum(shares):g}")
        if isinstance(self.access, Turns) and not set(self.access.order) <= set(names):
            raise ValueError(f"turns are of stations of the cell, got {self.access.order}")

    def as_fields(self) -> dict[str, Any]:
        """For another process, as JSON takes it."""
        return {**asdict(self), "access": [type(self.access).__name__, asdict(self.access)]}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Cell:
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
    """Of one station and direction. air_s: the frames' own, those that failed included.

    num_frames, num_bytes: delivered. num_dropped: found the queue full. num_lost, num_collided:
    tries that failed. num_given_up: frames that failed max_tries times. num_vanished: passed the
    air, and were lost on the path.
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
