"""What a coordinator knows of the texts that a target has read."""

from __future__ import annotations

import pytest

from airdraft.nodes.coordinator.members import record
from airdraft.nodes.coordinator.members.record import KnownTexts

TEXT = tuple(range(1100))


def test_what_texts_begin_with_is_known_to_their_owner_alone() -> None:
    known = KnownTexts()
    known.note("me", TEXT)
    # In pieces of 256 tokens.
    assert known.num_known("me", TEXT) == 1024
    assert known.num_known("me", (*TEXT[:600], 7, *TEXT)) == 512
    assert known.num_known("me", (*TEXT, *TEXT)) == 1024
    assert known.num_known("you", TEXT) == known.num_known("me", TEXT[1:]) == 0


def test_a_short_text_is_not_worth_knowing() -> None:
    known = KnownTexts()
    known.note("me", TEXT[:255])
    assert known.num_known("me", TEXT) == 0
    known.note("me", TEXT[:256])
    assert known.num_known("me", TEXT) == 256


def test_the_end_of_what_was_noted_longest_ago_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(record, "_MOST_HASHES", 8)
    known = KnownTexts()
    for owner in ("a", "b"):
        known.note(owner, TEXT)
    known.note("a", TEXT)
    known.note("c", TEXT[:512])
    assert [known.num_known(owner, TEXT) for owner in "abc"] == [1024, 512, 512]
