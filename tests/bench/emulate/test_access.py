"""Contention and shares in virtual time, against the closed forms of the air."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.emulate.cell import DOWN, UP, Cell, Station
from bench.emulate.medium import Medium
from tests.bench.air_cells import (
    FRAME_S,
    NAMES,
    Load,
    alone_s,
    cell_of,
    finished_s,
    loads,
    run_out,
    send_all,
)


@given(loads)
def test_shares_by_need_finish_together(load: Load) -> None:
    rates, messages = load
    airs = alone_s(cell_of(rates, ()), messages)
    shares = tuple(air_s / sum(airs) for air_s in airs)
    departures = send_all(cell_of(rates, shares), messages)
    expected = [sum(airs)] * len(airs)
    assert list(finished_s(departures).values()) == pytest.approx(expected)


@given(loads)
def test_a_reserved_share_is_as_a_slower_medium_of_its_own(load: Load) -> None:
    rates, messages = load
    n = len(rates)
    shares = tuple((k + 1) / (n * (n + 1) / 2) for k in range(n))
    cell = cell_of(rates, shares)
    finished = finished_s(send_all(cell, messages))
    for name, air_s, share in zip(NAMES, alone_s(cell, messages), shares, strict=False):
        assert finished[name] == pytest.approx(air_s / share)


@given(loads)
def test_equal_reserved_slots_last_n_times_the_longest(load: Load) -> None:
    rates, messages = load
    cell = cell_of(rates, (1 / len(rates),) * len(rates))
    last_s = max(finished_s(send_all(cell, messages)).values())
    assert last_s == pytest.approx(len(rates) * max(alone_s(cell, messages)))


@given(loads, st.integers(0, 1000))
def test_contention_takes_all_air_and_its_collisions(load: Load, seed: int) -> None:
    rates, messages = load
    cell = cell_of(rates, (), seed=seed, slot_s=0.0, max_tries=1000)
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


def test_both_directions_share_one_medium_in_turn() -> None:
    cell = cell_of([1e6], (1.0,))
    medium = Medium(cell)
    for way in (UP, UP, UP, DOWN, DOWN):
        medium.offer("a", way, 1000, None, 0.0)
    departures = run_out(medium)
    assert [d.direction for d in departures] == [UP, DOWN, UP, DOWN, UP]
    assert departures[-1].arrives_s == pytest.approx(5 * (FRAME_S + 0.008))


def test_the_hub_is_one_contender_with_a_queue_in_order_of_arrival() -> None:
    medium = Medium(cell_of([1e5, 1e6], ()))
    for place, name in enumerate("abbaab"):
        medium.offer(name, DOWN, 1000, place, 0.0)
    assert [d.payload for d in run_out(medium)] == list(range(6))
    assert not any(c.num_collided for c in medium.counters().values())


def test_a_frame_backs_off_while_the_other_direction_is_sent() -> None:
    station = Station(name="a", rate_bps=1e6, loss=0.9)
    cell = Cell(stations=(station,), shares=(1.0,), slot_s=1.0, max_tries=2, window=64)
    medium = Medium(cell)
    medium.offer("a", UP, 125, "up", 0.0)
    medium.offer("a", DOWN, 125, "down", 0.0)
    medium.advance(0.002)
    # Both were tried, though the first one waits for seconds.
    counters = medium.counters()
    assert [c.num_lost + c.num_frames for c in counters.values()] == [1, 1]


def test_a_failed_frame_is_tried_again_after_whole_slots() -> None:
    station = Station(name="a", rate_bps=1e6, loss=0.9)
    pauses = []
    for seed in range(20):
        cell = Cell(stations=(station,), shares=(1.0,), slot_s=1.0, max_tries=2, seed=seed)
        medium = Medium(cell)
        medium.offer("a", UP, 125, None, 0.0)
        while medium.counters()["a", UP].air_s < 0.002 and medium.next_event_s() < 1e9:
            last_s = medium.next_event_s()
            medium.advance(last_s)
        pauses.append(last_s - 0.002 if medium.counters()["a", UP].num_lost else 0.0)
    assert pauses == pytest.approx([round(pause) for pause in pauses], abs=1e-9)
    # A first window of 32 slots, doubled.
    assert 32 < max(pauses) < 64


def test_windows_double_or_two_of_one_slot_would_collide_for_ever() -> None:
    medium = Medium(cell_of([1e6, 1e6, 1e6], (), window=1))
    # The first has the medium until both others are there.
    for name in ("a", "b", "c"):
        medium.offer(name, UP, 1000, None, 0.0)
    assert sorted(d.station for d in run_out(medium)) == ["a", "b", "c"]
    assert [medium.counters()[name, UP].num_collided > 0 for name in "abc"] == [False, True, True]
