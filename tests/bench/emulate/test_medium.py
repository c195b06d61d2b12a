"""The medium in virtual time: order, losses, queues, clocks; shares and contention."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.emulate.cell import DOWN, UP, Cell, Path, Station
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
