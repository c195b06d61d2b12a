"""What a coordinator knows of the texts that a target has read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.coordinator.members import record
from airdraft.nodes.coordinator.members.record import KnownTexts

TEXT = tuple(range(1000))


def test_what_texts_begin_with_is_known_to_their_owner_alone() -> None:
    known = KnownTexts()
    known.note("me", TEXT)
    assert known.num_known("me", TEXT) == 1000
    assert known.num_known("me", (*TEXT[:600], 7, *TEXT)) == 600
    assert known.num_known("you", TEXT) == known.num_known("me", TEXT[1:]) == 0


def test_short_texts_are_not_worth_knowing() -> None:
    known = KnownTexts()
    known.note("me", TEXT[:255])
    assert known.num_known("me", TEXT) == 0
    known.note("me", TEXT[:256])
    assert known.num_known("me", TEXT) == 256


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(256, 400))))
def test_the_oldest_go_and_a_text_that_goes_on_takes_the_place_of_its_beginning(
    noted: list[tuple[str, int, int]],
) -> None:
    known = KnownTexts()
    most = record._MOST_BYTES
    record._MOST_BYTES = 4 * 1000  # type: ignore[misc]
    try:
        for owner, first, length in noted:
            known.note(owner, (first,) * length)
            assert known.num_known(owner, (first,) * 500) >= length
    finally:
        record._MOST_BYTES = most  # type: ignore[misc]
    # A thousand tokens are at most three of these texts.
    left = [known.num_known(owner, (first,) * 500) for owner in "ab" for first in range(10)]
    assert sum(left) <= 1000
