"""The medium in virtual time: what must hold for any cell, and the closed forms of the air."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.emulate.cell import DOWN, UP, Access, Cell, Contention, Direction, Shares, Station, Turns
from bench.emulate.medium import Departure, Medium
from policies.airtime import (
    airtime_s,
    batch_shares,
    batch_time_s,
    equal_share_time_s,
    turn_times_s,
)

FRAME_S = 0.002
NAMES = "abcdef"


def cell_of(rates: Sequence[float], access: Access, **fields: float) -> Cell:
    stations = tuple(
        Station(name=name, rate_bps=rate, queue_bytes=1 << 20)
        for name, rate in zip(NAMES, rates, strict=False)
    )
    return Cell(stations=stations, access=access, frame_s=FRAME_S, **fields)  # type: ignore[arg-type]


def run_out(medium: Medium, now: float = 0.0) -> list[Departure]:
    """Everything that departs, asked for whenever the medium says that something happens."""
    departures = medium.advance(now)
    while (next_s := medium.next_event_s()) < math.inf:
        assert next_s >= now
        now = next_s
        departures += medium.advance(now)
    return departures


def send_all(cell: Cell, messages: Sequence[Sequence[int]], way: Direction = UP) -> list[Departure]:
    """Each station's frames, all queued at time 0. Returns what departed."""
    medium = Medium(cell)
    for station, frames in zip(cell.stations, messages, strict=True):
        for place, num_bytes in enumerate(frames):
            assert medium.offer(station.name, way, num_bytes, place, 0.0)
    return run_out(medium)


def finished_s(departures: Sequence[Departure]) -> dict[str, float]:
    return {d.station: d.arrives_s for d in departures}


def alone_s(cell: Cell, messages: Sequence[Sequence[int]]) -> list[float]:
    bits = [sum(frames) * 8 for frames in messages]
    rates = [station.rate_bps for station in cell.stations]
    return [float(s) for s in airtime_s(bits, [len(frames) for frames in messages], rates, FRAME_S)]


loads = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(1e4, 1e7), min_size=n, max_size=n),
        st.lists(st.lists(st.integers(40, 1400), min_size=1, max_size=8), min_size=n, max_size=n),
    )
)
Load = tuple[list[float], list[list[int]]]


@given(loads)
def test_turns_take_the_air_of_all_one_after_the_other(load: Load) -> None:
    rates, messages = load
    cell = cell_of(rates, Turns())
    departures = send_all(cell, messages)
    airs = alone_s(cell, messages)
    expected = turn_times_s(airs, range(len(airs)))
    assert list(finished_s(departures).values()) == pytest.approx(list(expected))
    # Whole messages: no station's frames between those of another.
    stations = [d.station for d in departures]
    assert stations == sorted(stations)


@given(loads, st.permutations(NAMES))
def test_turns_in_a_given_order(load: Load, order: list[str]) -> None:
    rates, messages = load
    names = [name for name in order if name in NAMES[: len(rates)]]
    cell = cell_of(rates, Turns(tuple(names)))
    medium = Medium(cell)
    # One frame of the first holds the medium until the others' are queued.
    assert medium.offer(names[0], UP, 1400, None, 0.0)
    for station, frames in zip(cell.stations, messages, strict=True):
        for num_bytes in frames:
            medium.offer(station.name, UP, num_bytes, None, 0.0)
    finished = [d.station for d in run_out(medium)]
    assert list(dict.fromkeys(finished)) == names


@given(loads)
def test_batch_shares_finish_together(load: Load) -> None:
    rates, messages = load
    airs = alone_s(cell_of(rates, Contention()), messages)
    shares = tuple(float(phi) for phi in batch_shares(airs))
    departures = send_all(cell_of(rates, Shares(shares)), messages)
    expected = [batch_time_s(airs)] * len(airs)
    assert list(finished_s(departures).values()) == pytest.approx(expected)


@given(loads)
def test_a_reserved_share_is_as_a_slower_medium_of_its_own(load: Load) -> None:
    rates, messages = load
    n = len(rates)
    shares = tuple((k + 1) / (n * (n + 1) / 2) for k in range(n))
    cell = cell_of(rates, Shares(shares))
    finished = finished_s(send_all(cell, messages))
    for name, air_s, share in zip(NAMES, alone_s(cell, messages), shares, strict=False):
        assert finished[name] == pytest.approx(air_s / share)


@given(loads)
def test_equal_reserved_slots_last_n_times_the_longest(load: Load) -> None:
    rates, messages = load
    cell = cell_of(rates, Shares((1 / len(rates),) * len(rates)))
    last_s = max(finished_s(send_all(cell, messages)).values())
    assert last_s == pytest.approx(equal_share_time_s(alone_s(cell, messages)))


@given(loads)
def test_shares_that_are_not_reserved_waste_nothing(load: Load) -> None:
    rates, messages = load
    cell = cell_of(rates, Shares((0.1,) * len(rates), reserved=False))
    last_s = max(finished_s(send_all(cell, messages)).values())
    assert last_s == pytest.approx(sum(alone_s(cell, messages)))


@given(loads, st.integers(0, 1000))
def test_contention_takes_all_air_and_its_collisions(load: Load, seed: int) -> None:
    rates, messages = load
    cell = cell_of(rates, Contention(), seed=seed, slot_s=0.0, max_tries=1000)
    medium = Medium(cell)
    for station, frames in zip(cell.stations, messages, strict=True):
        for num_bytes in frames:
            medium.offer(station.name, UP, num_bytes, None, 0.0)
    last_s = max(finished_s(run_out(medium)).values())
    counters = medium.counters().values()
    least_s = sum(alone_s(cell, messages))
    # Two that collide are on the air at once, so the medium is busy for less than their sum.
    assert least_s - 1e-9 <= last_s <= sum(c.air_s for c in counters) + 1e-9
    if not any(c.num_collided for c in counters):
        assert last_s == pytest.approx(least_s)


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


def test_a_frame_backs_off_while_the_other_direction_has_the_turn() -> None:
    station = Station(name="a", rate_bps=1e6, loss=0.9)
    cell = Cell(stations=(station,), access=Turns(), slot_s=1.0, max_tries=2, window=64)
    medium = Medium(cell)
    medium.offer("a", UP, 125, "up", 0.0)
    medium.offer("a", DOWN, 125, "down", 0.0)
    medium.advance(0.002)
    # Both were tried, though the first one waits for seconds.
    counters = medium.counters()
    assert [c.num_lost + c.num_frames for c in counters.values()] == [1, 1]


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


def test_both_directions_share_one_medium_in_turn() -> None:
    cell = cell_of([1e6], Turns())
    medium = Medium(cell)
    for way in (UP, UP, UP, DOWN, DOWN):
        medium.offer("a", way, 1000, None, 0.0)
    departures = run_out(medium)
    assert [d.direction for d in departures] == [UP, DOWN, UP, DOWN, UP]
    assert departures[-1].arrives_s == pytest.approx(5 * (FRAME_S + 0.008))


def test_the_hub_is_one_contender_with_a_queue_in_order_of_arrival() -> None:
    medium = Medium(cell_of([1e5, 1e6], Contention()))
    for place, name in enumerate("abbaab"):
        medium.offer(name, DOWN, 1000, place, 0.0)
    assert [d.payload for d in run_out(medium)] == list(range(6))
    assert not any(c.num_collided for c in medium.counters().values())


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
