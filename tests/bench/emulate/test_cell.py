"""Descriptions of cells: what is refused, and that another process reads what was written."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from pydantic import TypeAdapter

from bench.emulate.cell import Cell, Counters, Path, Station

STATIONS = (
    Station(name="a", rate_bps=1e6, loss=0.1),
    Station(name="b", rate_bps=2e6, path=Path(loss=0.1, jitter_s=0.01)),
)


@pytest.mark.parametrize("shares", [(), (0.25, 0.5)])
def test_a_cell_survives_json(shares: tuple[float, ...]) -> None:
    cell = Cell(stations=STATIONS, shares=shares, frame_s=0.002, window=8, seed=5)
    assert TypeAdapter(Cell).validate_json(json.dumps(asdict(cell))) == cell


def test_counters_since() -> None:
    earlier, now = Counters(air_s=0.5, num_frames=2), Counters(air_s=2.0, num_frames=5, num_lost=1)
    assert now - earlier == Counters(air_s=1.5, num_frames=3, num_lost=1)
