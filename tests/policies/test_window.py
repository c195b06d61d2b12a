"""Which streams a draft node guesses for next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.guesses import Ahead, extended


def test_nobody_is_extended_beyond_the_window_or_what_has_a_chance() -> None:
    streams = [Ahead(1.0, 5), Ahead(0.09, 3), Ahead(0.9, 1)]
    assert extended(streams, least_chance=0.1, window=5, most_tokens=64) == [2]


def test_guesses_that_are_likely_to_be_used_come_first() -> None:
    streams = [Ahead(0.6, 4), Ahead(1.0, 0), Ahead(0.8, 2)]
    assert extended(streams, most_tokens=64) == [1, 2, 0]


ahead = st.builds(Ahead, st.floats(0.0, 1.0), st.integers(0, 40), st.integers(1, 5))


@given(streams=st.lists(ahead, max_size=12), most=st.integers(1, 20))
def test_a_step_holds_what_fits_and_somebody_if_anybody_fits(
    streams: list[Ahead], most: int
) -> None:
    found = extended(streams, least_chance=0.1, window=30, most_tokens=most)
    assert len(set(found)) == len(found)
    assert sum(streams[k].num_new for k in found) <= most
    able = [s for s in streams if s.chance >= 0.1 and s.num_guesses < 30]
    if able and all(s.num_new == 1 for s in able):
        assert found
