"""Guesses from texts that a target has had: the stream's own, and its owner's others."""

from __future__ import annotations

import gc
import sys
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.target.lookup import Lookup, NgramIndex
from airdraft.nodes.worker.stream import StreamId
from tests.nodes.builders import make_spec
from tests.nodes.target.script import ONE, TWO, alone, make_state, run, tokens_of

A, B = (11, 12, 13, 14, 15, 16), (21, 22, 23, 24)


def opened(prompt: tuple[int, ...], stream_id: int = 1, owner: str = "me") -> Lookup:
    lookup = Lookup()
    lookup.open(make_spec(stream_id, prompt=prompt, owner=owner, looks_up=True))
    return lookup


def test_the_longest_run_decides_and_longer_ones_are_surer() -> None:
    prompt = (9, 1, 2, 50, 8, 7, 1, 2, 60, 3, 7, 1, 2)
    found = opened(prompt).propose(ONE, 2)
    assert found.token_ids[0] == 60
    assert found.chances == sorted(found.chances)


def test_a_copy_goes_on_where_it_is_though_its_last_tokens_stood_elsewhere_later() -> None:
    """As in a file that says `return None` in many places, of which one is being copied."""
    block = (31, 32, 33, 34)
    lookup = opened((*A, *block, *B, 99, *block, 41, 42, 99, *A[:3]))
    lookup.committed(ONE, lookup.propose(ONE, 3).token_ids)
    # One token is another one here; the copy goes on behind it.
    lookup.committed(ONE, (77, *block[1:]))
    assert lookup.propose(ONE, 4).token_ids == list(B)


def test_another_text_of_the_owner_is_looked_into_and_a_strangers_is_not() -> None:
    for owner, is_cleared, expected in (("me", 0, [15, 16]), ("other", 0, []), ("me", 1, [])):
        lookup = opened(A, owner=owner)
        lookup.ended(ONE)
        # Nothing is left when another coordinator comes.
        if is_cleared:
            lookup.clear()
        lookup.open(make_spec(2, prompt=(5, *A[:4]), owner="me", looks_up=True))
        assert lookup.propose(TWO, 2).token_ids == expected


def test_what_a_stream_says_is_known_to_the_owners_others_at_once() -> None:
    lookup = opened((1, 2))
    lookup.open(make_spec(2, prompt=(3, *B[:3]), owner="me", looks_up=True))
    assert lookup.propose(TWO, 2).token_ids == []
    lookup.committed(ONE, (*B, 30))
    assert lookup.propose(TWO, 2).token_ids == [24, 30]


def test_chances_are_learnt_from_what_comes_whether_it_was_used_or_not() -> None:
    """A text whose copies always end after two tokens."""
    lookup = opened((1, 2))
    random = Random(3)
    chances = []
    for _ in range(300):
        copied = [random.randrange(50, 90) for _ in range(3)]
        lookup.committed(ONE, copied)
        lookup.committed(ONE, [random.randrange(50, 90) for _ in range(4)])
        lookup.committed(ONE, copied[:2])
        chances += lookup.propose(ONE, 1).chances[:1]
        lookup.committed(ONE, [0])
    assert chances[-1] < chances[0] / 2


def test_texts_take_no_more_memory_than_they_may() -> None:
    """A million tokens of ended texts are not kept; those under way are still served."""
    lookup = Lookup()
    random = Random(1)
    for number in range(1, 80):
        prompt = tuple(random.randrange(1, 1000) for _ in range(16_000))
        lookup.open(make_spec(number, prompt=prompt, owner=f"owner-{number}", looks_up=True))
        if number > 3:
            lookup.ended(StreamId(number))
    lookup.open(make_spec(100, prompt=(*A, 1, *A[:3]), owner="me", looks_up=True))
    assert lookup.propose(StreamId(100), 2).token_ids == [14, 15]


def num_calls(lookup: Lookup) -> int:
    """How many functions are called for the guesses of a stream and the tokens that follow."""
    events: list[str] = []
    sys.setprofile(lambda frame, event, argument: events.append(event))
    lookup.propose(ONE, 3)
    lookup.committed(ONE, (1, 2))
    sys.setprofile(None)
    return sum(event in ("call", "c_call") for event in events)


def test_the_work_for_a_stream_is_the_same_however_many_texts_its_owner_has() -> None:
    def work(num_others: int) -> int:
        lookup = opened((*A, 1, *A[:3]))
        for number in range(2, 2 + num_others):
            lookup.open(make_spec(number, prompt=(*A, number), owner="me", looks_up=True))
        return num_calls(lookup)

    assert work(64) == work(1)


def test_texts_that_are_too_short_to_be_found_come_and_go() -> None:
    lookup = opened((1,))
    for number in range(2, 22):
        lookup.open(make_spec(number, prompt=(number,), owner="me", looks_up=True))
        lookup.ended(StreamId(number))
    assert lookup.propose(ONE, 3).token_ids == []


def test_the_turns_of_a_conversation_do_not_keep_each_other_in_memory() -> None:
    """Each turn copies from the one before it."""
    lookup = Lookup()
    for number in range(1, 31):
        lookup.open(make_spec(number, prompt=(number, *A[:4]), owner="me", looks_up=True))
        expected = [15, 16] if number > 1 else []
        assert lookup.propose(StreamId(number), 2).token_ids == expected
        lookup.committed(StreamId(number), A[4:])
        lookup.ended(StreamId(number))
    gc.collect()
    assert sum(isinstance(each, NgramIndex) for each in gc.get_objects()) < 15


def test_a_target_takes_what_it_looked_up_and_the_text_is_that_of_plain_decoding() -> None:
    """The first stream's text is the prompt's end of the second: what it is to say is known."""
    state, _ = make_state()
    first = make_spec(1, max_tokens=60, ignore_eog=True, owner="me", num_leased=60, looks_up=True)
    state.open(first)
    commits = run(state)
    state.open(replace(first, stream_id=TWO))
    commits += run(state)
    expected = alone(first).token_ids
    assert tokens_of(commits, ONE) == tokens_of(commits, TWO) == expected
    of_second = [c for c in commits if c.entry.stream_id == TWO]
    assert sum(c.entry.num_accepted_tokens for c in of_second) > 40
    assert all(c.entry.num_looked_up == c.entry.num_draft_tokens for c in of_second)


# -- runs that are found ---------------------------------------------------------------------------


def search(tokens: list[int], gamma: int) -> list[int]:
    """The longest run of 4 to 2 last tokens, where it last stood before, and what followed."""
    for length in (4, 3, 2):
        for start in range(len(tokens) - length - 1, -1, -1):
            if len(tokens) > length and tokens[start : start + length] == tokens[-length:]:
                return tokens[start + length :][:gamma]
    return []


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=12), st.integers(0, 9))
def test_what_is_proposed_is_what_a_search_of_the_whole_past_finds_however_tokens_arrive(
    chunks: list[list[int]], gamma: int
) -> None:
    lookup = opened(())
    tokens: list[int] = []
    for chunk in chunks:
        lookup.committed(ONE, chunk)
        tokens += chunk
    assert lookup.propose(ONE, gamma).token_ids == search(tokens, gamma)


@pytest.mark.parametrize(
    ("tokens", "match"),
    [
        ([1, 2, 9, 1, 2], 2),
        ([7, 1, 2, 9, 8, 1, 2], 2),
        ([7, 1, 2, 9, 7, 1, 2], 3),
        ([*range(50), *range(40)], 32),
        ([*range(30), *range(10, 16)], 6),
    ],
)
def test_a_run_comes_with_how_much_before_its_end_is_the_same(
    tokens: list[int], match: int
) -> None:
    assert opened(tuple(tokens)).propose(ONE, 3).length == match
