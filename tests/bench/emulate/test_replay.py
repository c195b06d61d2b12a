"""A replay keeps a model's promises, in a profile's time; scripts answer as recorded."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.engine.protocol import InvalidInputError, ModelFileError, Span
from airdraft.nodes.engine.sampling import Sampling, probability, ranking
from airdraft.policies.acceptance import CALIBRATION_KEY
from airdraft.policies.latency import CostTable, NodeCosts
from bench.emulate.recording import RecordedGuesses, RecordedModel, RecordedText, Recording
from bench.emulate.replay import ReplayConfig, ReplayModel, Script, logit_of, pass_seconds
from tests.bench.emulate.recordings import COSTS, toy_recording

RECORDING = toy_recording(0.7)
TEXT = RECORDING.texts[0]
PROMPT = TEXT.prompt_ids


class Clock:
    """Time passes by computing, step_s a look, and by sleeping, late_s too long."""

    def __init__(self, step_s=0.0, late_s=0.0):
        self.now_s, self.step_s, self.late_s = 0.0, step_s, late_s
        self.naps = []

    def now(self):
        self.now_s += self.step_s
        return self.now_s

    def sleep(self, seconds):
        self.naps.append(seconds)
        self.now_s += seconds + self.late_s


def replay(clock=None, draft="", **changes):
    clock = clock or Clock()
    settings = {"name": "box", "recording": RECORDING, "costs": COSTS, "draft": draft} | changes
    return ReplayModel(ReplayConfig(**settings), now=clock.now, sleep=clock.sleep)


def test_a_target_says_its_texts_and_a_draft_guesses_as_recorded():
    guesses = TEXT.guesses[0]
    drafts = (RecordedModel("draft-0", "b", "how"),)
    recording = replace(RECORDING, drafts=drafts)
    for draft, token_ids, how in (("", TEXT.output_ids, ""), ("draft-0", guesses.token_ids, "how")):
        model = replay(recording=recording, draft=draft)
        assert model.metadata(CALIBRATION_KEY) == how
        fed = (*PROMPT, *TEXT.output_ids[:-1])
        rows = model.forward([Span(0, 0, fed, len(TEXT.output_ids))])
        assert tuple(rows.argmax(axis=1)) == token_ids
    found = [probability(row, i) for row, i in zip(rows, guesses.token_ids, strict=True)]
    assert found == pytest.approx(guesses.probabilities, rel=1e-4)
    with pytest.raises(ModelFileError, match="no draft 'other'"):
        replay(draft="other")
    # A text that was not recorded changes nothing.
    model, wrong = replay(), (TEXT.output_ids[0] + 1) % RECORDING.num_vocab
    with pytest.raises(InvalidInputError):
        model.forward([Span(1, 0, PROMPT), Span(0, 0, (*PROMPT, wrong), 1)])
    assert model.length(0) == model.length(1) == 0


def test_a_pass_sleeps_what_is_left_of_its_time():
    clock = Clock(step_s=1e-4)
    model = replay(clock)
    # Two looks at the clock: one step of it lies between. A third one sees when the sleep ended.
    model.forward([Span(0, 0, PROMPT)])
    model.forward([Span(0, len(PROMPT), TEXT.output_ids[:2], 2)])
    assert clock.naps == pytest.approx(
        [COSTS.prefill.at(len(PROMPT)) - 1e-4, COSTS.decode.at(2) - 2e-4]
    )
    # One that computed too long does not sleep.
    clock = Clock(step_s=1.0)
    replay(clock).forward([Span(0, 0, PROMPT)])
    assert clock.naps == []


def test_costs_are_those_of_tokens_used_cells_and_cells_of_their_own():
    decode = CostTable((1, 10), (0.01, 0.1), per_cell_s=1e-5, per_own_cell_s=1e-4)
    costs = NodeCosts(decode, CostTable((1,), (5.0,), per_cell_s=1e-3))
    assert pass_seconds(costs, [Span(0, 0, [1] * 7)], 100) == pytest.approx(35 + 0.7)
    # One output makes it a decode pass, whose every token counts.
    spans = [Span(0, 40, [1, 2, 3], 1), Span(1, 10, [1])]
    expected = 0.04 + 4 * (200 * 1e-5) + (3 * 40 + 10) * 1e-4
    assert pass_seconds(costs, spans, 200) == pytest.approx(expected)
    # Used cells are those before the pass.
    clock = Clock()
    model = replay(clock, costs=NodeCosts(decode, CostTable((1,), (1e-9,), per_cell_s=1.0)))
    model.forward([Span(0, 0, PROMPT[:2])])
    model.forward([Span(1, 0, PROMPT[:3])])
    assert clock.naps == pytest.approx([0, 6], abs=1e-6)


# Prompts 1 2 and 2 2 2. Of the first one the draft guesses the second token wrong: 5, not 4.
FIRST = RecordedText("chat", "A", (1, 2), (3, 4, 3), (RecordedGuesses((3, 5, 3), (0.9, 0.4, 0.6)),))
SECOND = RecordedText("chat", "B", (2, 2, 2), (1, 0), (RecordedGuesses((1, 0), (0.9, 0.8)),))
SCRIPTED = Recording(
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
    rows = np.zeros((outputs, SCRIPTED.num_vocab), dtype=np.float32)
    for row, position in zip(rows, range(len(ids) - outputs + 1, len(ids) + 1), strict=True):
        script.fill(row, text, num_right, position)
    return rows


def tokens(rows):
    return [int(row.argmax()) for row in rows]


def test_a_target_says_the_texts_to_their_ends_and_then_that_they_have_ended():
    target = Script(SCRIPTED, None)
    for text, token_ids in ((FIRST, (3, 4, 3, 0, 0)), (SECOND, (1, 0, 0, 0))):
        before, last = (), text.prompt_ids
        for token_id in token_ids:
            assert tokens(answers(target, before, *last)) == [token_id]
            before, last = (*before, *last), (token_id,)


def test_rows_of_a_target_behind_a_wrong_guess_are_no_numbers():
    target = Script(SCRIPTED, None)
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
        # It does not go on behind a wrong guess.
        ((1, 2, 5), (4,), 1, "token 5 at position 2"),
    ],
)
def test_a_target_takes_only_recorded_texts(before, token_ids, outputs, says):
    target = Script(SCRIPTED, None)
    with pytest.raises(InvalidInputError, match=says):
        target.read((*before, *token_ids), Span(7, len(before), token_ids, outputs))


def test_a_draft_goes_on_from_what_was_committed_or_guessed_by_itself_and_nothing_else():
    draft = Script(SCRIPTED, 0)
    assert tokens(answers(draft, (1, 2, 3), 4)) == [3]
    # Behind the last token it guesses nothing that a target would take.
    assert tokens(answers(draft, (1, 2, 3, 4), 3)) != [0]
    with pytest.raises(InvalidInputError, match=r"token 4 at position 2 .*temperature 0"):
        answers(draft, (1, 2), 4)
    answers(draft, (1, 2), 3, 5)
    with pytest.raises(InvalidInputError, match="token 1 at position 4"):
        answers(draft, (1, 2, 3, 5), 1)


def test_a_draft_has_the_other_choices_that_were_recorded():
    text = replace(FIRST, guesses=(replace(FIRST.guesses[0], others=((5, 1), (4, 2), (1, 4))),))
    draft = Script(replace(SCRIPTED, texts=(text,)), 0)
    assert draft.has_others
    assert not Script(SCRIPTED, 0).has_others
    (row,) = answers(draft, (1, 2), 3)
    assert ranking(row, Sampling(), 3, 3) == [5, 4, 2]
    assert probability(row, 5) == pytest.approx(0.4, rel=1e-3)
    # It goes on from each of them.
    answers(draft, (1, 2), 3, 2, 4)
    with pytest.raises(InvalidInputError, match="token 1 at position 3"):
        answers(draft, (1, 2), 3, 1)


@given(st.floats(0, 1), st.integers(2, 50_000))
def test_a_logit_is_the_largest_and_gives_its_probability(p, num_vocab):
    row = np.zeros(num_vocab, dtype=np.float32)
    row[1] = logit_of(p, num_vocab)
    assert row.argmax() == 1
    expected = min(1 - 1e-6, max(1.01 / num_vocab, p))
    assert probability(row, 1) == pytest.approx(expected, rel=1e-3)
