"""The medium in virtual time: order, losses, queues, clocks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.emulate.cell import DOWN, UP, Access, Cell, Contention, Shares, Station, Turns
from bench.emulate.medium import Medium
from tests.bench.air_cells import FRAME_S, Load, cell_of, loads, run_out, send_all

accesses = st.sampled_from([Contention(), Turns(), "reserved", "shared"])


@given(loads, accesses, st.integers(0, 1000), st.floats(0.0, 0.6), st.data())
def test_order_and_counts_whatever_is_lost(
    load: Load, how: Access | str, seed: int, loss: float, data: st.DataObject
) -> None:
    rates, messages = load
    shares = Shares((1 / len(rates),) * len(rates), reserved=how == "reserved")
    cell = cell_of(rates, shares if isinstance(how, str) else how, seed=seed, max_tries=3)
    stations = tuple(
        replace(s, loss=loss, delay_s=data.draw(st.floats(0, 1))) for s in cell.stations
    )
    medium = Medium(replace(cell, stations=stations))
    now, offered = 0.0, 0
    departures = []
    for station, frames in zip(stations, messages, strict=True):
        for place, num_bytes in enumerate(frames):
            now += data.draw(st.floats(0, 0.1))
            way = data.draw(st.sampled_from([UP, DOWN]))
            departures += medium.advance(now)
            offered += medium.offer(station.name, way, num_bytes, place, now)
    departures += run_out(medium, now)
    assert [d.arrives_s for d in departures] == sorted(d.arrives_s for d in departures)
    for (name, way), counters in medium.counters().items():
        places = [d.payload for d in departures if (d.station, d.direction) == (name, way)]
        assert places == sorted(places)
        assert counters.num_frames == len(places)
        failures = counters.num_lost + counters.num_collided
        assert failures >= 3 * counters.num_given_up
        assert counters.num_lost == 0 or loss > 0
    given_up = sum(c.num_given_up for c in medium.counters().values())
    assert len(departures) + given_up == offered == sum(map(len, messages))
    if loss == 0 and how != Contention():
        assert given_up == 0


def test_a_clock_read_late_changes_no_departure() -> None:
    cell = cell_of([1e5, 3e5], Contention(), seed=3)
    messages = [[1400] * 6, [1400] * 6]
    prompt = send_all(cell, messages)
    medium = Medium(cell)
    for station, frames in zip(cell.stations, messages, strict=True):
        for place, num_bytes in enumerate(frames):
            medium.offer(station.name, UP, num_bytes, place, 0.0)
    assert medium.advance(1e6) == prompt


def test_the_same_seed_gives_the_same_departures() -> None:
    messages = [[1400] * 8] * 3
    cell = cell_of([1e5] * 3, Contention(), seed=1)
    assert send_all(cell, messages) == send_all(cell, messages)
    assert send_all(cell, messages) != send_all(replace(cell, seed=2), messages)


def test_a_lost_frame_takes_its_air_and_is_sent_again() -> None:
    station = Station(name="a", rate_bps=1e5, loss=0.5, queue_bytes=1 << 20)
    medium = Medium(Cell(stations=(station,), access=Turns(), frame_s=FRAME_S, slot_s=0.0))
    for _ in range(50):
        medium.offer("a", UP, 1000, None, 0.0)
    last_s = run_out(medium)[-1].arrives_s
    counters = medium.counters()["a", UP]
    assert counters.num_lost > 20
    tries = counters.num_frames + counters.num_lost
    assert counters.air_s == pytest.approx(tries * (FRAME_S + 0.08))
    assert last_s == pytest.approx(counters.air_s)


def test_a_frame_that_fails_too_often_is_given_up_and_the_next_one_tried() -> None:
    station = Station(name="a", rate_bps=1e6, loss=0.7)
    medium = Medium(Cell(stations=(station,), access=Turns(), max_tries=1, seed=4))
    for place in range(40):
        medium.offer("a", UP, 100, place, 0.0)
    passed = len(run_out(medium))
    assert 0 < passed < 40
    assert medium.counters()["a", UP].num_given_up == 40 - passed


def test_a_full_queue_drops() -> None:
    station = Station(name="a", rate_bps=1e6, queue_bytes=3000)
    medium = Medium(Cell(stations=(station,), access=Turns()))
    assert [medium.offer("a", UP, 1400, n, 0.0) for n in range(3)] == [True, True, False]
    assert not medium.has_room("a", UP, 1400)
    assert medium.has_room("a", DOWN, 1400)
    assert len(run_out(medium)) == 2
    assert medium.counters()["a", UP].num_dropped == 1
    assert medium.has_room("a", UP, 3000)


def test_propagation_comes_after_the_air() -> None:
    station = Station(name="a", rate_bps=1e6, delay_s=0.5)
    medium = Medium(Cell(stations=(station,), access=Turns()))
    medium.offer("a", UP, 1000, None, 1.0)
    medium.offer("a", UP, 1000, None, 1.0)
    assert medium.advance(1.5) == []
    assert [d.arrives_s for d in run_out(medium, 1.5)] == pytest.approx([1.508, 1.516])


def test_time_does_not_go_backwards() -> None:
    medium = Medium(cell_of([1e6], Turns()))
    medium.advance(2.0)
    with pytest.raises(ValueError, match="backwards"):
        medium.offer("a", UP, 100, None, 1.0)
