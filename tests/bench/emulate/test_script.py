"""A script answers what was recorded, and takes nothing that no recorded run would feed it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.emulate.recording import RecordedGuesses, RecordedModel, RecordedText, Recording
from bench.emulate.replay import Script, logit_of
from nodes.engine.protocol import InvalidInputError, Span
from nodes.engine.sampling import Sampling, probability, sample

# Prompts 1 2 and 2 2 2. Of the first one the draft guesses the second token wrong: 5, not 4.
FIRST = RecordedText("chat", "A", (1, 2), (3, 4, 3), (RecordedGuesses((3, 5, 3), (0.9, 0.4, 0.6)),))
SECOND = RecordedText("chat", "B", (2, 2, 2), (1, 0), (RecordedGuesses((1, 0), (0.9, 0.8)),))
RECORDING = Recording(
    RecordedModel("large", "a"),
    (RecordedModel("small", "b"),),
    tuple(b"%d" % i for i in range(6)),
    (0,),
    (FIRST, SECOND),
)


def answers(script, before, *token_ids, outputs=1):
    """The rows of the last `outputs` tokens, fed after others."""
    ids = (*before, *token_ids)
    text, num_right = script.read(ids, Span(7, len(before), token_ids, outputs))
    rows = np.zeros((outputs, RECORDING.num_vocab), dtype=np.float32)
    for row, position in zip(rows, range(len(ids) - outputs + 1, len(ids) + 1), strict=True):
        script.fill(row, text, num_right, position)
    return rows


def tokens(rows):
    return [int(row.argmax()) for row in rows]


def test_a_target_says_the_texts_to_their_ends_and_then_that_they_have_ended():
    target = Script(RECORDING, None)
    for text, token_ids in ((FIRST, (3, 4, 3, 0, 0)), (SECOND, (1, 0, 0, 0))):
        before, last = (), text.prompt_ids
        for token_id in token_ids:
            assert tokens(answers(target, before, *last)) == [token_id]
            before, last = (*before, *last), (token_id,)


@given(st.floats(0.01, 100), st.integers(0, 2**63 - 1))
def test_a_target_says_the_text_whatever_the_sampling(temperature, seed):
    (row,) = answers(Script(RECORDING, None), (), 1, 2)
    assert sample(row, Sampling(temperature=temperature, seed=seed), 2) == 3


def test_rows_of_a_target_behind_a_wrong_guess_are_no_numbers():
    target = Script(RECORDING, None)
    rows = answers(target, (), 1, 2, 3, 5, 3, outputs=4)
    assert tokens(rows[:2]) == [3, 4]
    assert all(np.isnan(row).all() for row in rows[2:])
    # Taken back, the text goes on.
    assert tokens(answers(target, (1, 2, 3), 4, 3, outputs=2)) == [3, 0]


@pytest.mark.parametrize(
    ("before", "token_ids", "outputs", "says"),
    [
        # No text begins so: told at the first logits, or when no prompt is longer.
        ((), (1,), 1, "sequence 7 is not in the 2 recorded texts of large"),
        ((), (1, 3, 2), 0, "sequence 7 is not in the 2 recorded texts of large"),
        ((), (1, 2), 2, "a recorded prompt has no logits"),
        # Committed tokens: whatever has no logits, and the first that has.
        ((1, 2), (5,), 1, "token 5 at position 2 is not in the 2 recorded texts of large"),
        ((1, 2), (3, 5), 0, "token 5 at position 3 is not in"),
        ((1, 2, 3, 4, 3), (1,), 1, "token 1 at position 5 is not in"),
    ],
)
def test_a_target_takes_only_recorded_texts(before, token_ids, outputs, says):
    target = Script(RECORDING, None)
    with pytest.raises(InvalidInputError, match=says):
        target.read((*before, *token_ids), Span(7, len(before), token_ids, outputs))


def test_a_target_does_not_go_on_behind_a_wrong_guess():
    target = Script(RECORDING, None)
    answers(target, (), 1, 2, 5, outputs=2)
    with pytest.raises(InvalidInputError, match="token 5 at position 2"):
        answers(target, (1, 2, 5), 4)


def test_a_draft_catches_up_with_what_was_committed():
    draft = Script(RECORDING, 0)
    answers(draft, (), 1, 2, 3, 5)
    (row,) = answers(draft, (1, 2, 3), 4)
    assert row.argmax() == 3
    # Behind the last token it guesses nothing that a target would take.
    (row,) = answers(draft, (1, 2, 3, 4), 3)
    assert row.argmax() != 0


def test_a_draft_takes_neither_other_texts_nor_guesses_that_are_not_its_own():
    draft = Script(RECORDING, 0)
    with pytest.raises(InvalidInputError, match=r"token 4 at position 2 .*temperature 0"):
        answers(draft, (1, 2), 4)
    answers(draft, (1, 2), 3, 5)
    with pytest.raises(InvalidInputError, match="token 1 at position 4"):
        answers(draft, (1, 2, 3, 5), 1)


@given(st.floats(0, 1), st.integers(2, 50_000))
def test_a_logit_is_the_largest_and_gives_its_probability(p, num_vocab):
    row = np.zeros(num_vocab, dtype=np.float32)
    row[1] = logit_of(p, num_vocab)
    assert row.argmax() == 1
    expected = min(1 - 1e-6, max(1.01 / num_vocab, p))
    assert probability(row, 1) == pytest.approx(expected, rel=1e-3)
