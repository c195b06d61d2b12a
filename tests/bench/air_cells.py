"""Cells and messages for the tests of the emulated medium."""

import math
from collections.abc import Sequence

from hypothesis import strategies as st

from bench.emulate.cell import UP, Cell, Station
from bench.emulate.medium import Departure, Medium

FRAME_S = 0.002
NAMES = "abcdef"


def cell_of(rates: Sequence[float], shares: tuple[float, ...], **fields: float) -> Cell:
    stations = tuple(
        Station(name=name, rate_bps=rate, queue_bytes=1 << 20)
        for name, rate in zip(NAMES, rates, strict=False)
    )
    return Cell(stations=stations, shares=shares, frame_s=FRAME_S, **fields)  # type: ignore[arg-type]


def run_out(medium: Medium, now: float = 0.0) -> list[Departure]:
    """Everything that departs, asked for whenever the medium says that something happens."""
    departures = medium.advance(now)
    while (next_s := medium.next_event_s()) < math.inf:
        assert next_s >= now
        now = next_s
        departures += medium.advance(now)
    return departures


def offered(cell: Cell, messages: Sequence[Sequence[int]], **options: float) -> Medium:
    """A medium with each station's frames for the hub, all queued at time 0."""
    medium = Medium(cell, **options)
    for station, frames in zip(cell.stations, messages, strict=True):
        for place, num_bytes in enumerate(frames):
            assert medium.offer(station.name, UP, num_bytes, place, 0.0)
    return medium


def send_all(cell: Cell, messages: Sequence[Sequence[int]]) -> list[Departure]:
    return run_out(offered(cell, messages))


def finished_s(departures: Sequence[Departure]) -> dict[str, float]:
    return {d.station: d.arrives_s for d in departures}


def alone_s(cell: Cell, messages: Sequence[Sequence[int]]) -> list[float]:
    return [
        len(frames) * FRAME_S + sum(frames) * 8 / station.rate_bps
        for frames, station in zip(messages, cell.stations, strict=True)
    ]


loads = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(1e4, 1e7), min_size=n, max_size=n),
        st.lists(st.lists(st.integers(40, 1400), min_size=1, max_size=8), min_size=n, max_size=n),
    )
)
Load = tuple[list[float], list[list[int]]]
