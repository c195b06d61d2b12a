"""The medium in virtual time: order, losses, queues, clocks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.emulate.cell import DOWN, UP, Cell, Direction, Path, Station
from bench.emulate.medium import Medium
from tests.bench.air_cells import FRAME_S, Load, cell_of, loads, run_out, send_all

ALONE = (1.0,)
accesses = st.sampled_from([(), None])


@given(loads, accesses, st.integers(0, 1000), st.floats(0.0, 0.6), st.data())
def test_order_and_counts_whatever_is_lost(
    load: Load, how: tuple[float, ...] | None, seed: int, loss: float, data: st.DataObject
) -> None:
    rates, messages = load
    shares = (1 / len(rates),) * len(rates) if how is None else how
    cell = cell_of(rates, shares, seed=seed, max_tries=3)
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
    if loss == 0 and how != ():
        assert given_up == 0


def test_a_clock_read_late_changes_no_departure() -> None:
    cell = cell_of([1e5, 3e5], (), seed=3)
    messages = [[1400] * 6, [1400] * 6]
    prompt = send_all(cell, messages)
    medium = Medium(cell)
    for station, frames in zip(cell.stations, messages, strict=True):
        for place, num_bytes in enumerate(frames):
            medium.offer(station.name, UP, num_bytes, place, 0.0)
    assert medium.advance(1e6) == prompt


def test_the_same_seed_gives_the_same_departures() -> None:
    messages = [[1400] * 8] * 3
    cell = cell_of([1e5] * 3, (), seed=1)
    assert send_all(cell, messages) == send_all(cell, messages)
    assert send_all(cell, messages) != send_all(replace(cell, seed=2), messages)


def test_a_lost_frame_takes_its_air_and_is_sent_again() -> None:
    station = Station(name="a", rate_bps=1e5, loss=0.5, queue_bytes=1 << 20)
    medium = Medium(Cell(stations=(station,), shares=ALONE, frame_s=FRAME_S, slot_s=0.0))
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
    medium = Medium(Cell(stations=(station,), shares=ALONE, max_tries=1, seed=4))
    for place in range(40):
        medium.offer("a", UP, 100, place, 0.0)
    passed = len(run_out(medium))
    assert 0 < passed < 40
    assert medium.counters()["a", UP].num_given_up == 40 - passed


def test_a_full_queue_drops() -> None:
    station = Station(name="a", rate_bps=1e6, queue_bytes=3000)
    medium = Medium(Cell(stations=(station,), shares=ALONE))
    assert [medium.offer("a", UP, 1400, n, 0.0) for n in range(3)] == [True, True, False]
    assert not medium.has_room("a", UP, 1400)
    assert medium.has_room("a", DOWN, 1400)
    assert len(run_out(medium)) == 2
    assert medium.counters()["a", UP].num_dropped == 1
    assert medium.has_room("a", UP, 3000)


def test_propagation_comes_after_the_air() -> None:
    station = Station(name="a", rate_bps=1e6, delay_s=0.5)
    medium = Medium(Cell(stations=(station,), shares=ALONE))
    medium.offer("a", UP, 1000, None, 1.0)
    medium.offer("a", UP, 1000, None, 1.0)
    assert medium.advance(1.5) == []
    assert [d.arrives_s for d in run_out(medium, 1.5)] == pytest.approx([1.508, 1.516])


def test_time_does_not_go_backwards() -> None:
    medium = Medium(cell_of([1e6], ALONE))
    medium.advance(2.0)
    with pytest.raises(ValueError, match="backwards"):
        medium.offer("a", UP, 100, None, 1.0)


LOSSY = Station(name="a", rate_bps=1e6, path=Path(loss=0.3), queue_bytes=1 << 20)


def test_what_its_path_loses_has_had_its_air_and_is_gone() -> None:
    medium = Medium(Cell(stations=(LOSSY,), shares=ALONE, seed=5))
    for place in range(200):
        medium.offer("a", UP, 125, place, 0.0)
    departures = run_out(medium)
    counters = medium.counters()["a", UP]
    assert 30 < counters.num_vanished < 90
    assert counters.num_frames == len(departures) == 200 - counters.num_vanished
    assert counters.air_s == pytest.approx(200 * 0.001)
    assert counters.num_lost == counters.num_given_up == 0
    assert [d.payload for d in departures] == sorted(d.payload for d in departures)


def test_losses_of_one_direction_do_not_depend_on_the_other() -> None:
    def lost(*ways: Direction) -> list[int]:
        medium = Medium(Cell(stations=(LOSSY,), shares=ALONE, seed=6))
        for place in range(100):
            for way in ways:
                medium.offer("a", way, 125, place, 0.0)
        passed = {d.payload for d in run_out(medium) if d.direction == UP}
        return [place for place in range(100) if place not in passed]

    assert lost(UP) == lost(UP, DOWN)
    assert lost(UP)


@pytest.mark.parametrize("shares", [(), (1.0,)])
def test_in_a_stream_what_is_lost_only_comes_later(shares: tuple[float, ...]) -> None:
    station = replace(LOSSY, path=Path(loss=0.5))
    medium = Medium(Cell(stations=(station,), shares=shares, seed=2), resend_s=0.2)
    for place in range(30):
        medium.offer("a", UP, 125, place, 0.0)
    departures = run_out(medium)
    assert [d.payload for d in departures] == list(range(30))
    assert medium.counters()["a", UP].num_vanished > 10
    assert departures[-1].arrives_s > 10 * 0.2


def test_a_cut_direction_carries_nothing_until_it_is_mended() -> None:
    medium = Medium(cell_of([2e6, 2e6], (0.5, 0.5)))
    medium.cut("a", UP, 1.0)
    for name, way in (("a", UP), ("a", DOWN), ("b", UP)):
        medium.offer(name, way, 125, (name, way), 1.0)
    assert [d.payload for d in run_out(medium, 1.0)] == [("b", UP), ("a", DOWN)]
    assert medium.counters()["a", UP].num_vanished == 1
    medium.mend("a", UP, 2.0)
    medium.offer("a", UP, 125, "again", 2.0)
    assert [d.payload for d in run_out(medium, 2.0)] == ["again"]


def test_a_stream_over_a_cut_waits_twice_as_long_each_time() -> None:
    station = Station(name="a", rate_bps=1e9)
    medium = Medium(Cell(stations=(station,), shares=ALONE), resend_s=0.2)
    medium.cut("a", UP, 0.0)
    medium.offer("a", UP, 125, None, 0.0)
    assert medium.advance(1.3) == []
    # Tried at 0, 0.2, 0.6; then at 1.4.
    assert medium.counters()["a", UP].num_vanished == 3
    medium.mend("a", UP, 1.3)
    assert [d.arrives_s for d in run_out(medium, 1.3)] == pytest.approx([1.4], abs=1e-4)
