"""A replay keeps the Model protocol's promises, and its passes take what a profile says."""

from dataclasses import replace

import pytest

from bench.emulate.recording import RecordedModel
from bench.emulate.replay import ReplayConfig, ReplayModel, ReplayTokenizer, pass_seconds
from nodes.engine.protocol import InvalidInputError, ModelFileError, Span
from nodes.engine.sampling import probability
from policies.acceptance import CALIBRATION_KEY
from policies.latency import CostTable, NodeCosts
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


def test_a_text_that_was_not_recorded_changes_nothing():
    model = replay()
    model.forward([Span(0, 0, PROMPT)])
    wrong = next(i for i in range(RECORDING.num_vocab) if i != TEXT.output_ids[0])
    with pytest.raises(InvalidInputError):
        model.forward([Span(1, 0, PROMPT), Span(0, len(PROMPT), [wrong], 1)])
    assert [model.length(0), model.length(1)] == [len(PROMPT), 0]


def test_it_says_that_it_is_emulated_and_shares_a_vocabulary_with_its_drafts():
    target, draft = replay().info, replay(draft="draft-0").info
    assert target.emulated
    assert draft.emulated
    assert target.vocab_hash == draft.vocab_hash
    assert target.model_hash != draft.model_hash
    assert target.vocab_hash != replay(recording=toy_recording(num_texts=1)).info.vocab_hash
    assert (target.num_vocab, target.eog_token_ids) == (RECORDING.num_vocab, {RECORDING.eog_ids[0]})


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


@pytest.mark.parametrize(("late_s", "made_up_s"), [(3e-4, 3e-4), (0.2, 5e-4), (-1e-4, 0.0)])
def test_a_pass_makes_up_for_the_sleep_before_but_not_for_stalls(late_s, made_up_s):
    clock = Clock(late_s=late_s)
    model = replay(clock)
    model.forward([Span(0, 0, PROMPT)])
    for place, token_id in enumerate(TEXT.output_ids[:5]):
        model.forward([Span(0, len(PROMPT) + place, (token_id,), 1)])
    one_s = COSTS.decode.at(1)
    assert clock.naps[1:] == pytest.approx([one_s - made_up_s] * 5)


def test_costs_are_those_of_tokens_used_cells_and_cells_of_their_own():
    decode = CostTable((1, 10), (0.01, 0.1), per_cell_s=1e-5, per_own_cell_s=1e-4)
    costs = NodeCosts(decode, CostTable((1,), (5.0,), per_cell_s=1e-3))
    assert pass_seconds(costs, [Span(0, 0, [1] * 7)], 100) == pytest.approx(35 + 0.7)
    # One output makes it a decode pass, whose every token counts.
    spans = [Span(0, 40, [1, 2, 3], 1), Span(1, 10, [1])]
    expected = 0.04 + 4 * (200 * 1e-5) + (3 * 40 + 10) * 1e-4
    assert pass_seconds(costs, spans, 200) == pytest.approx(expected)


def test_used_cells_are_those_before_the_pass():
    clock = Clock()
    costs = NodeCosts(CostTable((1,), (1.0,)), CostTable((1,), (1e-9,), per_cell_s=1.0))
    model = replay(clock, costs=costs)
    model.forward([Span(0, 0, PROMPT[:2])])
    model.forward([Span(1, 0, PROMPT[:3])])
    assert clock.naps == pytest.approx([0, 6], abs=1e-6)


def test_the_tokenizer_knows_the_recorded_prompts():
    tokenizer = ReplayTokenizer(RECORDING)
    assert tuple(tokenizer.encode_chat([("user", TEXT.prompt)])) == PROMPT
    user = ("user", TEXT.prompt)
    for messages in ([("user", "else")], [("user", "")], [("system", TEXT.prompt)], [user, user]):
        with pytest.raises(InvalidInputError, match="not one of the 6 recorded prompts of toy"):
            tokenizer.encode_chat(messages)
    with pytest.raises(InvalidInputError, match="not one of the 6"):
        tokenizer.encode(TEXT.prompt)
    assert tokenizer.piece(3) == RECORDING.pieces[3]
    with pytest.raises(InvalidInputError):
        tokenizer.piece(RECORDING.num_vocab)
