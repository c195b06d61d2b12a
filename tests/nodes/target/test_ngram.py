"""Prompt lookup against a search through the whole past."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.target.lookup import NgramIndex


def proposed(index, gamma):
    """The tokens that followed the longest run, and how many tokens matched before the first."""
    start, match = index.find(index.token_ids) or (len(index), 0)
    return index.token_ids[start : start + gamma], match


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
        assert proposed(index, gamma)[0] == search(tokens, gamma)


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
def test_a_run_comes_with_how_much_before_its_end_is_the_same(tokens, match):
    index = NgramIndex()
    index.extend(tokens)
    assert proposed(index, 3)[1] == match
