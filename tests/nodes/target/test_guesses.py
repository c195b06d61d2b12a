"""The guesses that a target keeps for a stream: which it offers, and how it counts them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.messages import MAX_WINDOW, ChainPart
from airdraft.nodes.target.guess_buffer import GuessBuffer, GuessFates

TEXT = (1, 2, 3)


def take(
    buffer: GuessBuffer,
    number: tuple[int, int],
    start: int,
    token_ids: Sequence[int],
    text: Sequence[int] = TEXT,
) -> None:
    part = ChainPart(1, *number, start, bytes([51] * len(token_ids)))
    buffer.take(part, token_ids, text)


def taken(*parts: tuple[tuple[int, int], int, list[int]]) -> GuessBuffer:
    buffer = GuessBuffer()
    for part in parts:
        take(buffer, *part)
    return buffer


def test_a_gap_ends_a_chain_until_a_newer_one_begins_and_an_older_one_is_not_heard() -> None:
    buffer = taken(((1, 1), 3, [7]), ((1, 1), 5, [9]))
    take(buffer, (1, 1), 4, [8])
    assert buffer.after(3)[0] == buffer.after(4)[0] == []
    take(buffer, (1, 2), 3, [8])
    assert buffer.after(3) == ([8], [0.2])
    buffer = taken(((2, 1), 3, [7]))
    take(buffer, (1, 9), 3, [8])
    take(buffer, (2, 0), 3, [8])
    assert buffer.after(3)[0] == [7]


def test_late_guesses_are_used_as_far_as_they_were_right() -> None:
    """Two of them are for positions that have passed."""
    buffer = taken(((1, 1), 1, [2, 3, 9]))
    assert buffer.after(3)[0] == [9]
    assert buffer.fates == GuessFates(num_compared=2, num_right=2, num_late=2)
    wrong = taken(((1, 1), 1, [2, 4, 9]))
    assert wrong.after(3)[0] == []
    assert wrong.fates == GuessFates(num_compared=2, num_right=1, num_late=2)


def test_a_draft_node_cannot_fill_the_memory_of_a_target() -> None:
    buffer = GuessBuffer()
    for start in range(3, 1003, 10):
        take(buffer, (1, 1), start, [7] * 10)
    assert len(buffer.after(3)[0]) <= MAX_WINDOW
    for chain in range(2, 100):
        take(buffer, (1, chain), 3, [chain] * 10)
    right = (copy.deepcopy(buffer) for _ in range(100))
    kept = 0
    for token_id, each in enumerate(right):
        each.compare((*TEXT, token_id))
        kept += bool(each)
    assert 1 < kept <= 8


def test_every_guess_is_compared_once_whether_it_was_used_or_not() -> None:
    buffer = taken(((1, 1), 3, [7, 8, 9]))
    buffer.compare((*TEXT, 7))
    assert buffer.fates == GuessFates(1, 1)
    buffer.compare((*TEXT, 7, 8, 5))
    assert buffer.fates == GuessFates(3, 2)
    assert buffer.after(6)[0] == []
    buffer.compare((*TEXT, 7, 8, 5, 6))
    assert buffer.fates == GuessFates(3, 2)


def test_a_wrong_guess_is_the_right_one_of_another_chain() -> None:
    """Chains repeat what they have in common, and each goes on by itself."""
    buffer = taken(((1, 1), 3, [7, 8, 9]), ((1, 2), 3, [7, 5]), ((1, 3), 3, [6, 6, 6, 6]))
    take(buffer, (1, 2), 5, [4, 4])
    # All chances are alike, so the longest promises most.
    assert buffer.after(3)[0] == [6, 6, 6, 6]
    buffer.compare((*TEXT, 7))
    assert buffer.after(4)[0] == [5, 4, 4]
    buffer.compare((*TEXT, 7, 5))
    assert buffer.after(5)[0] == [4, 4]
    assert buffer.fates == GuessFates(num_compared=2, num_right=1, num_other=1)
    # What goes on the chains that were wrong is of no use, and the right one goes on.
    take(buffer, (1, 1), 6, [3], (*TEXT, 7, 5))
    take(buffer, (1, 2), 7, [2], (*TEXT, 7, 5))
    assert buffer.after(5)[0] == [4, 4, 2]
    buffer.compare((*TEXT, 7, 5, 1))
    assert not buffer
    assert buffer.fates == GuessFates(num_compared=3, num_right=1, num_other=1)


def test_what_several_chains_say_too_late_counts_once() -> None:
    buffer = taken(((1, 1), 1, [2, 3, 7, 8]), ((1, 2), 1, [2, 3, 6]), ((1, 3), 1, [2, 9]))
    assert buffer.fates == GuessFates(num_compared=2, num_right=2, num_late=2)
    buffer.compare((*TEXT, 6))
    assert buffer.fates == GuessFates(num_compared=3, num_right=2, num_other=1, num_late=2)


def test_chains_without_guesses_left_make_room_for_others() -> None:
    buffer = GuessBuffer()
    for chain in range(1, 20):
        take(buffer, (1, chain), 1, [2])
    take(buffer, (1, 20), 3, [7])
    take(buffer, (1, 20), 4, [8])
    assert buffer.after(3)[0] == [7, 8]


pieces = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), max_size=5)


@given(
    text=st.lists(st.integers(0, 3), min_size=1, max_size=20), parts=pieces, lost=st.integers(0, 6)
)
def test_what_it_offers_is_what_the_chain_says(
    text: list[int], parts: list[list[int]], lost: int
) -> None:
    """However the chain and the text arrive, guesses offered for a position are the chain's own for
    it, and none is offered where the text has taken another way or a piece is missing."""
    base = len(text) // 2
    buffer = GuessBuffer()
    chain: list[int] = []
    for index, part in enumerate(parts):
        start = base + len(chain)
        chain += part
        if index != lost:
            take(buffer, (1, 1), start, part, text[:base])
    before_gap = [token for part in parts[:lost] for token in part]
    for length in range(base, len(text) + 1):
        buffer.compare(text[:length])
        offered = buffer.after(length)[0]
        if offered:
            assert offered == chain[length - base : length - base + len(offered)]
            assert text[base:length] == chain[: length - base]
            assert lost >= len(parts) - 1 or len(before_gap) == len(chain)
