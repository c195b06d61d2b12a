"""The medium in virtual time: order, losses, queues, clocks; shares and contention."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.emulate.cell import DOWN, UP, Cell, Direction, Path, Station
from bench.emulate.medium import Departure, Medium
from bench.emulate.profiles import GOOD, PROFILES, LinkProfile
from bench.emulate.profiles import cell_of as links_cell

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


def test_a_clock_read_late_changes_no_departure_and_the_seed_does() -> None:
    cell = cell_of([1e5, 3e5], (), seed=3)
    messages = [[1400] * 6, [1400] * 6]
    prompt = send_all(cell, messages)
    assert offered(cell, messages).advance(1e6) == prompt
    # Another seed gives other departures.
    assert send_all(replace(cell, seed=2), messages) != prompt


def test_a_lost_frame_takes_its_air_and_is_sent_again() -> None:
    station = Station(name="a", rate_bps=1e5, loss=0.5, queue_bytes=1 << 20)
    cell = Cell(stations=(station,), shares=ALONE, frame_s=FRAME_S, slot_s=0.0)
    medium = offered(cell, [[1000] * 50])
    last_s = run_out(medium)[-1].arrives_s
    counters = medium.counters()["a", UP]
    assert counters.num_lost > 20
    tries = counters.num_frames + counters.num_lost
    assert counters.air_s == pytest.approx(tries * (FRAME_S + 0.08))
    assert last_s == pytest.approx(counters.air_s)


def test_a_frame_that_fails_too_often_is_given_up_and_the_next_one_tried() -> None:
    station = Station(name="a", rate_bps=1e6, loss=0.7)
    medium = offered(Cell(stations=(station,), shares=ALONE, max_tries=1, seed=4), [[100] * 40])
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


LOSSY = Station(name="a", rate_bps=1e6, path=Path(loss=0.3), queue_bytes=1 << 20)


def test_what_its_path_loses_has_had_its_air_and_is_gone() -> None:
    medium = offered(Cell(stations=(LOSSY,), shares=ALONE, seed=5), [[125] * 200])
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
    medium = offered(Cell(stations=(station,), shares=shares, seed=2), [[125] * 30], resend_s=0.2)
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
    medium.cut("a", UP, 2.0, ends=True)
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
    medium.cut("a", UP, 1.3, ends=True)
    assert [d.arrives_s for d in run_out(medium, 1.3)] == pytest.approx([1.4], abs=1e-4)


@given(loads)
def test_a_reserved_share_is_as_a_slower_medium_of_its_own(load: Load) -> None:
    rates, messages = load
    n = len(rates)
    shares = tuple((k + 1) / (n * (n + 1) / 2) for k in range(n))
    cell = cell_of(rates, shares)
    finished = finished_s(send_all(cell, messages))
    for name, air_s, share in zip(NAMES, alone_s(cell, messages), shares, strict=False):
        assert finished[name] == pytest.approx(air_s / share)


@given(loads, st.integers(0, 1000))
def test_contention_takes_all_air_and_its_collisions(load: Load, seed: int) -> None:
    rates, messages = load
    cell = cell_of(rates, (), seed=seed, slot_s=0.0, max_tries=1000)
    medium = offered(cell, messages)
    last_s = max(finished_s(run_out(medium)).values())
    counters = medium.counters().values()
    least_s = sum(alone_s(cell, messages))
    # Two that collide are on the air at once, so the medium is busy for less than their sum.
    assert least_s - 1e-9 <= last_s <= sum(c.air_s for c in counters) + 1e-9
    if not any(c.num_collided for c in counters):
        assert last_s == pytest.approx(least_s)


@given(loads, st.data())
def test_without_a_window_frames_are_sent_in_order_of_arrival(
    load: Load, data: st.DataObject
) -> None:
    rates, messages = load
    medium = Medium(cell_of(rates, (), window=0))
    num_bytes = {name: list(sizes) for name, sizes in zip(NAMES, messages, strict=False)}
    free_s, expected = 0.0, []
    for number, name in enumerate(
        data.draw(st.permutations([n for n in num_bytes for _ in num_bytes[n]]))
    ):
        size = num_bytes[name].pop()
        free_s += FRAME_S + size * 8 / rates[NAMES.index(name)]
        expected.append((number, pytest.approx(free_s)))
        assert medium.offer(name, data.draw(st.sampled_from([UP, DOWN])), size, number, 0.0)
    assert [(d.payload, d.arrives_s) for d in run_out(medium)] == expected


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


def test_windows_double_or_two_of_one_slot_would_collide_for_ever() -> None:
    # The first has the medium until both others are there.
    medium = offered(cell_of([1e6, 1e6, 1e6], (), window=1), [[1000]] * 3)
    assert sorted(d.station for d in run_out(medium)) == ["a", "b", "c"]
    assert [medium.counters()[name, UP].num_collided > 0 for name in "abc"] == [False, True, True]


@pytest.mark.parametrize("name", PROFILES)
def test_a_link_has_its_round_trip_and_rate_whatever_the_others_do(name: str) -> None:
    profile = PROFILES[name]
    calm = LinkProfile(name=name, rtt_s=profile.rtt_s, rate_bps=profile.rate_bps)
    medium = Medium(links_cell({"a": calm, "b": GOOD}, seed=1))
    for _ in range(50):
        medium.offer("b", UP, 1400, None, 0.0)
    medium.offer("a", UP, 1400, "there", 0.0)
    there = next(d for d in run_out(medium) if d.payload == "there").arrives_s
    began = 1.0
    medium.offer("a", DOWN, 1400, "back", began)
    back = next(d for d in run_out(medium, began) if d.payload == "back").arrives_s - began
    assert there + back == pytest.approx(profile.rtt_s + 2 * 1400 * 8 / profile.rate_bps)
