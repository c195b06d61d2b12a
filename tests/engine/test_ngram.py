"""Prompt lookup against a search through the whole past."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.engine.ngram import NgramIndex


def search(tokens, gamma):
    """The longest run of 4 to 2 last tokens, where it last stood before, and what followed."""
    for length in (4, 3, 2):
        for start in range(len(tokens) - length - 1, -1, -1):
            if len(tokens) > length and tokens[start : start + length] == tokens[-length:]:
                return tokens[start + length :][:gamma]
    return []


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=12), st.integers(0, 9))
def test_proposes_what_a_search_finds_however_the_tokens_arrive(chunks, gamma):
    index = NgramIndex()
    tokens = []
    for chunk in chunks:
        index.extend(chunk)
        tokens += chunk
        assert len(index) == len(tokens)
        assert [token_id for token_id, _ in index.propose(gamma)] == search(tokens, gamma)


@pytest.mark.parametrize(
    ("tokens", "matches"),
    [
        ([1, 2, 9, 1, 2], [2, 3, 4]),
        ([7, 1, 2, 9, 8, 1, 2], [2, 3, 4]),
        ([7, 1, 2, 9, 7, 1, 2], [3, 4, 5]),
        ([*range(50), *range(40)], [32, 32, 32]),
        ([*range(30), *range(10, 16)], [6, 7, 8]),
    ],
)
def test_a_guess_comes_with_how_much_before_it_is_the_same(tokens, matches):
    index = NgramIndex()
    index.extend(tokens)
    assert [match for _, match in index.propose(3)] == matches
