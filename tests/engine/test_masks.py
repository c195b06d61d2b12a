"""The masks of a text are those of its grammar's state, whoever computes them and when."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.engine.grammar import GrammarError, Grammars, Mask
from airdraft.nodes.engine.masks import AT_ONCE, GrammarText, MaskMissingError, MasksAtOnce
from airdraft.nodes.engine.rules import Grammar
from airdraft.nodes.engine.toy import TOY_EOG, ToyTokenizer

GRAMMARS = Grammars(ToyTokenizer(40).piece, 40, frozenset({TOY_EOG}))
NUMBERS = Grammar("gbnf", 'root ::= (" " [1-3] [0-9]?)+ " 4"')
# Whoever calls itself twice is given up after some tokens.
TWICE = Grammar("gbnf", 'root ::= s\ns ::= s s | " 5" | " 6"')


class Later(MasksAtOnce):
    """Computes when it is told to."""

    def __init__(self) -> None:
        self.asked: list[GrammarText] = []
        self.num_woken = 0

    def ask(self, text: GrammarText) -> None:
        self.asked.append(text)

    def wake(self) -> None:
        self.num_woken += 1

    def compute(self) -> None:
        while self.asked:
            self.asked.pop().compute()


def after(grammar: Grammar, *token_ids: int) -> Mask:
    state = GRAMMARS.begin(grammar)
    for token_id in token_ids:
        state.push(token_id)
    return state.allowed()


@given(st.data())
def test_masks_are_those_of_the_text_whatever_was_guessed_and_taken_back(
    data: st.DataObject,
) -> None:
    service = Later()
    text = GrammarText(GRAMMARS.begin(NUMBERS), "a", service)
    tokens: list[int] = []
    for _ in range(data.draw(st.integers(1, 12))):
        guesses = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 11, 25, TOY_EOG]), max_size=3))
        text.ask(guesses)
        if data.draw(st.booleans()):
            service.compute()
        if tokens and data.draw(st.booleans()):
            gone = data.draw(st.integers(1, len(tokens)))
            text.take_back(gone)
            del tokens[-gone:]
        allowed = np.flatnonzero(after(NUMBERS, *tokens)).tolist()
        try:
            assert np.flatnonzero(text.allowed()).tolist() == allowed
        except MaskMissingError:
            service.compute()
            assert np.flatnonzero(text.allowed()).tolist() == allowed
        # What was guessed comes more often than by chance.
        likely = [token_id for token_id in guesses if token_id in allowed] or allowed
        tokens.append(data.draw(st.sampled_from(likely)))
        text.push(tokens[-1])


def test_a_grammar_is_given_up_at_the_same_token_whatever_was_guessed() -> None:
    def given_up_at(*guesses: int) -> int:
        text = GrammarText(GRAMMARS.begin(TWICE), "a", AT_ONCE)
        for count in range(1_000):
            text.ask(guesses)
            try:
                text.allowed()
            except GrammarError:
                return count
            text.push(5)
        raise AssertionError("it goes on for ever")

    count = given_up_at()
    assert count > 8
    # Masks behind wrong guesses fail earlier, and those behind right ones are used.
    assert given_up_at(6, 6, 6) == given_up_at(5, 5, 6) == given_up_at(5, 5, 5) == count


def test_a_mask_that_is_missing_is_told_of_once_it_is_there() -> None:
    service = Later()
    text = GrammarText(GRAMMARS.begin(NUMBERS), "a", service)
    with pytest.raises(MaskMissingError):
        text.allowed()
    assert text.is_slow
    assert text.await_next()
    service.compute()
    assert service.num_woken == 1
    assert not text.await_next()
    assert not text.is_slow
    # Nobody waits for the next one.
    text.push(1)
    text.ask()
    service.compute()
    assert service.num_woken == 1
