"""Turns on a medium: nobody overlaps, gaps are used, nothing is kept for ever."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.mesh.grants import Air, Medium, Reservation


def test_media_have_nothing_to_do_with_one_another_and_each_adds_up():
    air = Air()
    assert air["a"].reserve(0.0, 0.0, 9.0) == Reservation(0.0, 9.0)
    assert air["b"].reserve(0.0, 0.0, 1.0) == Reservation(0.0, 1.0)
    assert air["a"].reserve(0.0, 0.0, 0.25) == Reservation(9.0, 9.25)
    assert air.reserved_s() == [("a", 9.25), ("b", 1.0)]


wishes = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 2), st.floats(0.001, 0.7)), min_size=1, max_size=30
)


@given(wishes)
def test_no_two_turns_overlap_and_none_waits_without_need(wishes):
    medium, now = Medium(), 0.0
    made: list[Reservation] = []
    for later, wait, airtime_s in wishes:
        now += later
        ready = now + wait
        turn = medium.reserve(now, ready, airtime_s)
        assert turn.start >= ready
        assert turn.end == turn.start + airtime_s
        # Whatever lies between ready and the start leaves no gap that is long enough.
        busy = sorted((t.start, t.end) for t in made if t.end > ready and t.start < turn.start)
        at = ready
        for start, end in busy:
            assert start < at + airtime_s
            at = max(at, end)
        assert turn.start == pytest.approx(at)
        made.append(turn)
    for a, b in pairwise(sorted(made)):
        assert a.end <= b.start + 1e-12


def test_a_gap_is_filled_as_far_as_it_goes():
    medium = Medium()
    medium.reserve(0.0, 1.0, 1.0)
    medium.reserve(0.0, 2.5, 0.5)
    assert medium.reserve_gap(0.0, 0.9, 0.2, 1.0) == Reservation(2.0, 2.5)
    assert medium.reserve_gap(0.0, 0.0, 0.2, 0.5) == Reservation(0.0, 0.5)
    assert medium.reserve_gap(0.0, 0.0, 0.6, 2.0) == Reservation(3.0, 5.0)
    assert medium.reserve_gap(0.0, 0.0, 0.5, 2.0) == Reservation(0.5, 1.0)


def test_only_the_media_used_last_are_remembered():
    air = Air()
    air["kept"].reserve(0.0, 50.0, 1.0)
    for number in range(2000):
        air[f"medium {number}"].reserve(0.0, number / 100, 0.001)
    names = [name for name, _ in air.reserved_s()]
    assert len(names) <= 256
    assert "medium 1999" in names
    assert air["kept"].reserved_s == 1.0
