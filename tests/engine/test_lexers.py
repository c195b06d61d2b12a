"""Texts of one grammar share its lexer, whose limits are for all of them; none may see it."""

from __future__ import annotations

import json
import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import pytest

from airdraft.nodes.engine.grammar import GrammarError, Grammars, GrammarState, LexerError
from airdraft.nodes.engine.masks import AT_ONCE, GrammarText
from airdraft.nodes.engine.rules import Grammar

# Long pieces of two letters, so that few tokens make many states of a lexer.
RANDOM = random.Random(1)
LETTERS = ["".join(RANDOM.choices("ab", k=20)) for _ in range(8)]
PIECES = [b"", b'"', b"x", b"a", b"b", *(letters.encode() for letters in LETTERS)]
LONG = range(5, len(PIECES))


def schema(**rules: object) -> Grammar:
    return Grammar("json_schema", json.dumps({"type": "string", **rules}))


# The lexer needs a state for each sequence of the last 80 letters.
MANY_STATES = schema(pattern="^[ab]*a[ab]{80}x$")
# The lexer needs a state for each letter.
LONG_TEXT = schema(maxLength=60_000)
# Each letter needs much work, as long as nobody has done it before.
MUCH_WORK = schema(pattern="^([ab]{1,20}x?){3,30000}$")


def new_grammars() -> Grammars:
    return Grammars(PIECES.__getitem__, len(PIECES), frozenset({0}))


def text_of(seed: int) -> Iterator[int]:
    """The tokens of an endless text."""
    source = random.Random(seed)
    yield 1
    while True:
        yield source.choice(LONG)


def use_up(grammars: Grammars, grammar: Grammar) -> None:
    """Write other texts until the lexer of all of them has failed."""
    for seed in range(100, 10_000):
        state = grammars.begin(grammar)
        try:
            for token_id in islice(text_of(seed), 1_000):
                state.allowed()
                state.push(token_id)
        except LexerError:
            return
    raise AssertionError("the lexer has no limit")


def after(state: GrammarState, token_ids: Sequence[int]) -> list[int]:
    for token_id in token_ids:
        state.push(token_id)
    return np.flatnonzero(state.allowed()).tolist()


def test_a_lexer_that_others_have_used_up_is_not_seen() -> None:
    grammars = new_grammars()
    text = GrammarText(grammars.begin(MANY_STATES), "a")
    token_ids = list(islice(text_of(1), 40))
    for index, token_id in enumerate(token_ids):
        if index == 20:
            use_up(grammars, MANY_STATES)
        text.push(token_id)
        expected = after(new_grammars().begin(MANY_STATES), token_ids[: index + 1])
        assert np.flatnonzero(text.allowed()).tolist() == expected
    # The next text gets a new lexer where grammars are compiled.
    assert not grammars.knows(MANY_STATES)
    assert after(grammars.begin(MANY_STATES), token_ids) == expected


@pytest.mark.parametrize("grammar", [LONG_TEXT, MUCH_WORK])
def test_a_text_is_given_up_at_the_same_token_whatever_else_was_written(grammar: Grammar) -> None:
    token_ids = list(islice(text_of(1), 2_000))

    def is_given_up_at(
        count: int, *guesses: int, is_other_before: bool = False, num_before: int = 0
    ) -> bool:
        grammars = new_grammars()
        if is_other_before:
            use_up(grammars, grammar)
        text = GrammarText(grammars.begin(grammar), "a", AT_ONCE)
        for token_id in token_ids[: count - num_before]:
            text.push(token_id)
        for token_id in token_ids[count - num_before : count]:
            text.ask(guesses)
            text.allowed()
            text.push(token_id)
        try:
            text.allowed()
        except GrammarError as error:
            assert "too many" in str(error)  # noqa: PT017
            return True
        return False

    # A node that gets all of the text at once.
    first = bisect_left(range(2_000), True, key=is_given_up_at)
    assert 8 < first < 2_000
    for count in (first - 1, first):
        is_over = count == first
        assert is_given_up_at(count, num_before=6) == is_over
        assert is_given_up_at(count, 5, 6, 7, num_before=6) == is_over
        assert is_given_up_at(count, is_other_before=True) == is_over


def test_a_long_text_that_is_read_again_needs_no_more_work_at_once_than_where_it_was_written() -> (
    None
):
    grammar = schema(pattern="^([ab]{0,50000}|[ab]{0,40000}x|[ab]{0,30000}xx)$")
    token_ids = list(islice(text_of(1), 600))
    written, read = (new_grammars().begin(grammar) for _ in range(2))
    for token_id in token_ids:
        written.allowed()
        written.push(token_id)
    assert after(read, token_ids) == np.flatnonzero(written.allowed()).tolist()
