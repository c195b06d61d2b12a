"""What every engine promises of its sequences: toys, replays and llama.cpp; toys by themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.engine.protocol import CacheFullError, InvalidInputError, Span, check_spans
from airdraft.nodes.engine.sampling import Sampling, sample
from airdraft.nodes.engine.toy import TOY_EOG, ToyConfig, ToyModel, ToyTokenizer
from bench.emulate.replay import ReplayConfig, ReplayModel
from tests.bench.emulate.recordings import COSTS, toy_recording

RECORDING = toy_recording(num_texts=1)
(RECORDED,) = RECORDING.texts
# A replay has logits from the last token of the prompt on, and takes no other text.
NUM = len(RECORDED.prompt_ids)
TEXT = (*RECORDED.prompt_ids, *RECORDED.output_ids)


def toy(**limits):
    return ToyModel(ToyConfig(**limits))


def replay(**limits):
    config = ReplayConfig(name="box", recording=RECORDING, costs=COSTS, **limits)
    return ReplayModel(config, now=lambda: 0.0, sleep=lambda _seconds: None)


@pytest.fixture(params=[toy, replay], ids=["toy", "replay"])
def make(request):
    return request.param


@pytest.fixture(params=["toy", "replay", pytest.param("llama", marks=pytest.mark.model)])
def engine(request):
    if request.param == "llama":
        return request.getfixturevalue("model")
    return {"toy": toy, "replay": replay}[request.param](max_sequences=4)


def row_after(model, seq_id, end):
    """Logits behind the text up to `end`, of which a sequence has the beginning."""
    start = model.length(seq_id)
    return model.forward([Span(seq_id, start, TEXT[start:end], 1)])[0].copy()


def test_calls_that_cannot_be_are_refused_and_change_nothing(engine):
    engine.forward([Span(0, 0, TEXT[:NUM])])
    saved = engine.save(0)
    wrong = {
        "forward": [
            ([],),
            ([Span(4, 0, TEXT[:1])],),
            ([Span(0, 2, TEXT[2:3])],),
            ([Span(1, 0, TEXT[:1]), Span(0, NUM, [2**31], 1)],),
        ],
        "length": [(-1,), (4,)],
        "save": [(1,), (4,)],
        "restore": [(0, saved, 1), (1, saved, 0), (1, saved, NUM + 1), (4, saved, 1)],
        "truncate": [(0, NUM + 1), (0, -1), (-1, 0), (4, 0)],
        "copy_prefix": [(0, 0, 1), (0, 1, NUM + 1), (0, 1, 0), (0, 4, 1), (-1, 1, 1), (4, 1, 1)],
    }
    for name, arguments in ((name, each) for name, calls in wrong.items() for each in calls):
        with pytest.raises(InvalidInputError):
            getattr(engine, name)(*arguments)
    assert [engine.length(seq_id) for seq_id in range(4)] == [NUM, 0, 0, 0]
    assert np.array_equal(row_after(engine, 0, NUM + 1), row_after(engine, 1, NUM + 1))


def test_rows_come_in_the_order_of_spans_and_only_for_outputs(engine):
    empty = engine.forward([Span(3, 0, TEXT[:2])])
    assert empty.shape == (0, engine.info.num_vocab)
    spans = [Span(2, 0, TEXT[: NUM + 2], 2), Span(0, 0, TEXT[:3]), Span(1, 0, TEXT[:NUM], 1)]
    rows = engine.forward(spans).copy()
    assert rows.dtype == np.float32
    for seq_id in range(3):
        engine.truncate(seq_id, 0)
    ends = (NUM + 1, NUM + 2, NUM)
    expected = [row_after(engine, seq_id, end) for seq_id, end in enumerate(ends)]
    assert np.array_equal(rows, np.stack(expected))


@pytest.mark.parametrize("is_saved", [False, True], ids=["copied", "saved"])
def test_a_prefix_goes_on_and_leaves_its_source_alone(make, is_saved):
    model = make()
    model.forward([Span(0, 0, TEXT[: NUM + 4])])
    saved = model.save(0)
    assert (saved.length, model.length(0)) == (NUM + 4, NUM + 4)
    if is_saved:
        model.truncate(0, 0)
    for target, length in ((1, NUM + 2), (2, 3), (3, NUM + 4)):
        if is_saved:
            model.restore(target, saved, length)
        else:
            model.copy_prefix(0, target, length)
        assert model.length(target) == length
        assert np.array_equal(row_after(model, target, NUM + 5), row_after(make(), 0, NUM + 5))
    assert model.length(0) == (0 if is_saved else NUM + 4)


def test_a_full_cache_says_so_and_can_be_used_again(make):
    model = make(num_cells=NUM + 5)
    model.forward([Span(0, 0, TEXT[:4])])
    saved = model.save(0)
    model.forward([Span(0, 4, TEXT[4 : NUM + 2])])
    for call in (lambda: model.forward([Span(1, 0, TEXT[:4])]), lambda: model.restore(1, saved, 1)):
        with pytest.raises(CacheFullError, match=f"full: 4 cells wanted, 3 of {NUM + 5} free"):
            call()
    assert model.length(1) == 0
    model.truncate(0, NUM + 1)
    model.restore(1, saved, 4)
    assert model.free_cells() == 0
    model.close()
    assert (model.free_cells(), model.length(0)) == (NUM + 5, 0)


INFO = ToyModel(ToyConfig(num_vocab=10, max_sequences=3, max_batch_tokens=6)).info


@pytest.mark.parametrize(
    ("spans", "reason"),
    [
        ([], "0 tokens"),
        ([Span(-1, 0, [1])], "sequence id -1 outside 0..2"),
        ([Span(3, 0, [1])], "sequence id 3 outside 0..2"),
        ([Span(1, 0, [1]), Span(1, 1, [1])], "sequence 1 appears twice"),
        ([Span(1, 0, [])], "sequence 1: no tokens"),
        ([Span(0, 3, [1])], "position 3, but 4 are"),
        ([Span(1, -1, [1])], "position -1"),
        ([Span(1, 0, [1], 2)], "2 outputs"),
        ([Span(1, 0, [1], -1)], "-1 outputs"),
        ([Span(1, 0, [1, 10])], "outside the vocabulary"),
        ([Span(1, 0, [-1])], "outside the vocabulary"),
        ([Span(1, 0, [1] * 4), Span(2, 0, [1] * 3)], "7 tokens in one pass, limit 6"),
    ],
)
def test_spans_that_libllama_would_answer_with_an_abort_are_refused_with_the_reason(spans, reason):
    with pytest.raises(InvalidInputError, match=reason):
        check_spans(spans, INFO, [4, 0, 0])
    good = [Span(0, 4, [0, 9], 1), Span(2, 0, [1, 2, 3, 4], 4)]
    assert check_spans(good, INFO, [4, 0, 0]) == 6


def rows_of(model, seq_id, token_ids):
    return model.forward([Span(seq_id, model.length(seq_id), token_ids, len(token_ids))])


@pytest.mark.parametrize("agreement", [0.0, 0.35, 0.8, 1.0])
def test_a_draft_agrees_on_the_share_of_contexts_it_was_given(agreement):
    target = ToyModel(ToyConfig(num_vocab=32, max_batch_tokens=2000))
    draft = ToyModel(ToyConfig(num_vocab=32, max_batch_tokens=2000, agreement=agreement))
    token_ids = np.random.default_rng(0).integers(0, 32, 2000).tolist()
    same = (rows_of(target, 0, token_ids) == rows_of(draft, 0, token_ids)).all(axis=1).mean()
    assert same == pytest.approx(agreement, abs=0.04 if 0 < agreement < 1 else 0)


@pytest.mark.parametrize("eog_rate", [0.0, 0.2, 1.0])
def test_texts_end_as_often_as_told(eog_rate):
    model = ToyModel(ToyConfig(num_vocab=32, max_batch_tokens=2000, eog_rate=eog_rate))
    token_ids = np.random.default_rng(0).integers(0, 32, 2000).tolist()
    rows = rows_of(model, 0, token_ids)
    ended = [sample(row, Sampling(temperature=1.0), i) == TOY_EOG for i, row in enumerate(rows)]
    assert np.mean(ended) == pytest.approx(eog_rate, abs=0.03 if 0 < eog_rate < 1 else 0)
    assert model.info.eog_token_ids == {TOY_EOG}


@given(st.text(min_size=1))
def test_the_tokenizer_never_gives_the_end_token(text):
    token_ids = ToyTokenizer(96).encode_chat([("user", text)])
    assert len(token_ids) == len(text.encode())
    assert all(1 <= token_id < 96 for token_id in token_ids)


def test_the_tokenizer_tells_tokens_apart_and_refuses_nothing_to_say():
    tokenizer = ToyTokenizer(96)
    assert len({tokenizer.piece(i) for i in range(96)}) == 96
    assert tokenizer.piece(TOY_EOG) == b""
    with pytest.raises(InvalidInputError):
        tokenizer.encode("")


def test_each_pass_takes_as_long_as_its_pace_says():
    naps = []
    rows_of(ToyModel(ToyConfig(), sleep=naps.append), 0, [1, 2])
    assert naps == []
    model = ToyModel(ToyConfig(pass_s=0.25), sleep=naps.append)
    fast = rows_of(ToyModel(), 0, [1, 2])
    assert np.array_equal(rows_of(model, 0, [1, 2]), fast)
    rows_of(model, 1, [1] * 50)
    assert naps == [0.25, 0.25]
