from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.engine.protocol import SavedPrefix, common_prefix
from nodes.target.residents import PrefixStore


def saved(length: int) -> SavedPrefix:
    """A byte a position."""
    return SavedPrefix(length, np.zeros(length, dtype=np.uint8))


def put(store: PrefixStore, owner: str, *token_ids: int) -> SavedPrefix:
    prefix = saved(len(token_ids))
    store.put(owner, token_ids, prefix)
    return prefix


def test_the_shortest_entry_with_the_longest_prefix_is_found_and_none_of_another_owner() -> None:
    store = PrefixStore(100)
    long = put(store, "me", 1, 2, 3, 4, 5, 6)
    short = put(store, "me", 1, 2, 3, 4, 7)
    assert store.longest("me", (1, 2, 3, 4, 8)) == (short, 4)
    assert store.longest("me", (1, 2, 3, 4, 5, 8)) == (long, 5)
    # Nor does a longer text of one replace the text of another.
    put(store, "you", 1, 2, 3, 4, 5, 6, 7)
    assert store.longest("me", (1, 2, 3, 4, 5, 6, 7)) == (long, 6)
    assert not store.holds("you", (1, 2, 3, 4, 7))


def test_an_entry_goes_when_a_longer_one_has_all_of_it() -> None:
    store = PrefixStore(100)
    put(store, "me", 1, 2)
    put(store, "me", 1, 3)
    put(store, "me", 1, 2, 3)
    assert (len(store), store.num_bytes) == (2, 5)
    again = put(store, "me", 1, 3)
    assert (len(store), store.num_bytes) == (2, 5)
    assert store.longest("me", (1, 3)) == (again, 2)
    assert store.holds("me", (1, 2))
    assert store.holds("me", (1, 2, 3))
    assert not store.holds("me", (1, 2, 3, 4))


def test_the_least_recently_used_goes_when_the_budget_is_spent() -> None:
    store = PrefixStore(9)
    for first in (1, 2, 3):
        put(store, "me", first, 0, 0)
    assert store.longest("me", (1, 5)) is not None
    assert store.holds("me", (2, 0))
    put(store, "you", 4, 0, 0)
    assert [store.longest("me", (first,)) is not None for first in (1, 2, 3)] == [True, True, False]
    put(store, "you", 5, 0, 0, 0)
    assert (len(store), store.num_bytes) == (2, 7)
    assert store.longest("me", (2, 0)) is not None


def test_what_is_over_the_budget_alone_is_not_kept_and_displaces_nothing() -> None:
    store = PrefixStore(4)
    put(store, "me", 1, 2)
    store.put("me", (1, 2, 3, 4, 5), saved(5))
    assert len(store) == 1
    assert store.longest("me", (1, 2, 3)) is not None
    store.clear()
    assert (len(store), store.num_bytes) == (0, 0)
    assert not PrefixStore(0).is_on


texts = st.lists(st.integers(0, 2), max_size=6).map(tuple)


@given(
    puts=st.lists(st.tuples(st.sampled_from("ab"), texts.filter(bool)), max_size=20),
    wanted=texts,
    max_bytes=st.sampled_from([20, 1000]),
)
def test_the_budget_holds_and_the_longest_is_what_a_search_by_hand_finds(
    puts: list[tuple[str, tuple[int, ...]]], wanted: tuple[int, ...], max_bytes: int
) -> None:
    store = PrefixStore(max_bytes)
    for owner, token_ids in puts:
        store.put(owner, token_ids, saved(len(token_ids)))
        assert store.num_bytes <= max_bytes
    for owner in "ab":
        lengths = [by_hand(token_ids, wanted) for of, token_ids in puts if of == owner]
        found = store.longest(owner, wanted)
        length = found[1] if found else 0
        # With a small budget some are gone.
        assert length == max(lengths, default=0) or (max_bytes == 20 and length in (0, *lengths))


def by_hand(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count


@given(texts, texts)
def test_common_prefix(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    assert common_prefix(a, b) == by_hand(a, b)


@pytest.mark.parametrize("sequence", [list, tuple])
def test_common_prefix_of_long_texts(sequence: type) -> None:
    text = sequence(range(5000))
    assert common_prefix(text, text[:4000]) == 4000
    assert common_prefix(text[:1] + text[2:], text) == 1
