"""A replay keeps the Model protocol's promises, and its passes take what a profile says."""

from dataclasses import replace

import numpy as np
import pytest

from nodes.engine.protocol import CacheFullError, InvalidInputError, ModelFileError, Span
from nodes.engine.recording import RecordedModel
from nodes.engine.replay import ReplayConfig, ReplayModel, ReplayTokenizer, pass_seconds
from nodes.engine.sampling import probability
from policies.latency import CostTable, NodeCosts
from tests.engine.recordings import COSTS, toy_recording

RECORDING = toy_recording(0.7)
TEXT, OTHER = RECORDING.texts[:2]
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


def test_the_text_comes_token_by_token_and_in_one_pass():
    model = replay()
    model.forward([Span(0, 0, PROMPT[:-1])])
    last, token_ids = PROMPT[-1], []
    for _ in TEXT.output_ids:
        last = int(model.forward([Span(0, model.length(0), (last,), 1)])[0].argmax())
        token_ids.append(last)
    fed = (*PROMPT, *TEXT.output_ids)
    rows = model.forward([Span(1, 0, fed, len(TEXT.output_ids) + 1)])
    assert tuple(token_ids) == TEXT.output_ids
    assert tuple(rows[:-1].argmax(axis=1)) == TEXT.output_ids
    assert rows.dtype == np.float32


def test_rows_are_in_span_order_beside_prompts():
    model = replay()
    model.forward([Span(5, 0, PROMPT), Span(2, 0, OTHER.prompt_ids[:-1])])
    spans = [
        Span(2, model.length(2), OTHER.prompt_ids[-1:], 1),
        Span(0, 0, PROMPT[:3]),
        Span(5, len(PROMPT), TEXT.output_ids[:2], 2),
    ]
    rows = model.forward(spans)
    assert tuple(rows.argmax(axis=1)) == (OTHER.output_ids[0], *TEXT.output_ids[1:3])
    assert [model.length(i) for i in (0, 2, 5)] == [3, len(OTHER.prompt_ids), len(PROMPT) + 2]


def test_a_draft_guesses_as_recorded():
    model = replay(draft="draft-0")
    guesses = TEXT.guesses[0]
    rows = model.forward([Span(0, 0, (*PROMPT, *TEXT.output_ids[:-1]), len(TEXT.output_ids))])
    assert tuple(rows.argmax(axis=1)) == guesses.token_ids
    found = [probability(row, i) for row, i in zip(rows, guesses.token_ids, strict=True)]
    assert found == pytest.approx(guesses.probabilities, rel=1e-4)
    with pytest.raises(ModelFileError, match="no draft 'other'"):
        replay(draft="other")


def test_a_draft_brings_its_calibration():
    drafts = (RecordedModel("draft-0", "b", "how"),)
    recording = replace(RECORDING, drafts=drafts)
    assert replay(recording=recording, draft="draft-0").calibration == "how"
    assert replay(recording=recording).calibration == ""


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


@pytest.mark.parametrize(("late_s", "made_up_s"), [(3e-4, 3e-4), (0.2, 5e-4), (-1e-4, 0.0)])
def test_a_pass_makes_up_for_the_sleep_before_but_not_for_stalls(late_s, made_up_s):
    clock = Clock(late_s=late_s)
    model = replay(clock)
    model.forward([Span(0, 0, PROMPT)])
    for place, token_id in enumerate(TEXT.output_ids[:5]):
        model.forward([Span(0, len(PROMPT) + place, (token_id,), 1)])
    one_s = COSTS.decode.at(1)
    assert clock.naps[1:] == pytest.approx([one_s - made_up_s] * 5)


def test_a_pass_that_computed_too_long_does_not_sleep():
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


def test_used_cells_are_those_before_the_pass():
    clock = Clock()
    costs = NodeCosts(CostTable((1,), (1.0,)), CostTable((1,), (1e-9,), per_cell_s=1.0))
    model = replay(clock, costs=costs)
    model.forward([Span(0, 0, PROMPT[:2])])
    model.forward([Span(1, 0, PROMPT[:3])])
    assert clock.naps == pytest.approx([0, 6], abs=1e-6)


def test_a_prefix_is_copied_with_what_is_known_of_it():
    model = replay()
    model.forward([Span(0, 0, (*PROMPT, *TEXT.output_ids[:4]))])
    model.copy_prefix(0, 1, len(PROMPT) + 2)
    model.copy_prefix(0, 2, 3)
    (row,) = model.forward([Span(1, len(PROMPT) + 2, TEXT.output_ids[2:3], 1)])
    assert row.argmax() == TEXT.output_ids[3]
    (row,) = model.forward([Span(2, 3, PROMPT[3:], 1)])
    assert row.argmax() == TEXT.output_ids[0]


def test_a_prefix_is_saved_and_goes_on_as_it_would_have():
    model = replay()
    model.forward([Span(0, 0, (*PROMPT, *TEXT.output_ids[:4]))])
    saved = model.save(0)
    assert saved.length == len(PROMPT) + 4
    model.truncate(0, 0)
    model.restore(1, saved, len(PROMPT) + 2)
    (row,) = model.forward([Span(1, len(PROMPT) + 2, TEXT.output_ids[2:3], 1)])
    assert row.argmax() == TEXT.output_ids[3]
    for call in (lambda: model.save(0), lambda: model.restore(1, saved, 1)):
        with pytest.raises(InvalidInputError):
            call()


def test_invalid_calls_change_nothing():
    model = replay(max_sequences=2)
    model.forward([Span(0, 0, PROMPT)])
    wrong = next(i for i in range(RECORDING.num_vocab) if i != TEXT.output_ids[0])
    calls = [
        lambda: model.truncate(0, len(PROMPT) + 1),
        lambda: model.truncate(0, -1),
        lambda: model.truncate(2, 0),
        lambda: model.length(-1),
        lambda: model.copy_prefix(0, 0, 1),
        lambda: model.copy_prefix(0, 1, len(PROMPT) + 1),
        lambda: model.copy_prefix(0, 1, 0),
        lambda: model.forward([Span(0, 2, [1])]),
        lambda: model.forward([Span(1, 0, PROMPT), Span(0, len(PROMPT), [wrong], 1)]),
    ]
    for call in calls:
        with pytest.raises(InvalidInputError):
            call()
    assert [model.length(0), model.length(1)] == [len(PROMPT), 0]


def test_a_full_cache_is_refused_and_close_frees_it():
    model = replay(num_cells=len(PROMPT) + 1)
    model.forward([Span(0, 0, PROMPT)])
    with pytest.raises(CacheFullError) as caught:
        model.forward([Span(1, 0, OTHER.prompt_ids[:2])])
    assert (caught.value.wanted, caught.value.free) == (2, 1)
    model.forward([Span(1, 0, OTHER.prompt_ids[:1])])
    assert model.free_cells() == 0
    model.close()
    assert model.free_cells() == len(PROMPT) + 1


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
