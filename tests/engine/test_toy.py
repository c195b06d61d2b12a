"""The toy keeps the Model protocol's promises, and a draft agrees as often as it was told to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.engine.protocol import CacheFullError, InvalidInputError, Span
from nodes.engine.sampling import Sampling, sample
from nodes.engine.toy import TOY_EOG, ToyConfig, ToyModel, ToyTokenizer

tokens = st.lists(st.integers(0, 95), min_size=1, max_size=30)


def rows_of(model, seq_id, token_ids):
    return model.forward([Span(seq_id, model.length(seq_id), token_ids, len(token_ids))])


@given(tokens, st.data())
def test_logits_depend_on_the_tokens_before_and_on_nothing_else(token_ids, data):
    plain = rows_of(ToyModel(), 0, token_ids)
    model = ToyModel()
    model.forward([Span(1, 0, [5, 6, 7])])
    rows = []
    while len(rows) < len(token_ids):
        width = data.draw(st.integers(1, len(token_ids) - len(rows)))
        right = token_ids[len(rows) : len(rows) + width]
        wrong = data.draw(st.lists(st.integers(0, 95), max_size=3))
        spans = [
            Span(1, model.length(1), [9], 1),
            Span(0, len(rows), right + wrong, len(right) + len(wrong)),
        ]
        rows += list(model.forward(spans)[1 : 1 + width])
        model.truncate(0, len(rows))
    assert np.array_equal(np.stack(rows), plain)


def test_logits_of_different_contexts_differ():
    first = rows_of(ToyModel(), 0, [1, 2, 3])
    second = rows_of(ToyModel(), 0, [2, 1, 3])
    assert not np.array_equal(first[2], second[2])
    assert not np.array_equal(rows_of(ToyModel(ToyConfig(seed=1)), 0, [1]), first[:1])


def test_outputs_are_the_last_tokens_in_span_order():
    model, other = ToyModel(), ToyModel()
    rows = model.forward([Span(3, 0, [1, 2, 3], 2), Span(0, 0, [4, 5]), Span(1, 0, [6], 1)])
    expected = [*rows_of(other, 3, [1, 2, 3])[1:], *rows_of(other, 1, [6])]
    assert np.array_equal(rows, np.stack(expected))
    assert rows.dtype == np.float32


def test_a_pass_without_outputs_has_no_rows():
    model = ToyModel()
    assert model.forward([Span(0, 0, [1, 2])]).shape == (0, 96)
    assert model.length(0) == 2
    assert model.num_forward_passes == 1


def test_cells_are_logits_exact_in_float32():
    rows = rows_of(ToyModel(), 0, list(range(96)))
    ordinary = np.delete(rows, TOY_EOG, axis=1)
    assert ordinary.min() >= 0
    assert ordinary.max() < 8
    assert np.array_equal(ordinary * 512, np.round(ordinary * 512))


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


def test_copy_prefix_gives_the_same_logits_and_sequences_of_their_own():
    model = ToyModel()
    rows_of(model, 0, [1, 2, 3, 4])
    model.copy_prefix(0, 1, 2)
    assert model.length(1) == 2
    copied = rows_of(model, 1, [7, 8])
    assert model.length(0) == 4
    assert np.array_equal(copied, rows_of(ToyModel(), 0, [1, 2, 7, 8])[2:])


def test_a_saved_prefix_goes_on_with_the_same_logits_whatever_became_of_its_sequence():
    model = ToyModel()
    rows_of(model, 0, [1, 2, 3, 4])
    saved = model.save(0)
    assert (saved.length, saved.num_bytes, model.length(0)) == (4, 32, 4)
    rows_of(model, 0, [5])
    model.truncate(0, 0)
    model.restore(1, saved, 2)
    model.restore(2, saved, 4)
    assert np.array_equal(rows_of(model, 1, [7, 8]), rows_of(ToyModel(), 0, [1, 2, 7, 8])[2:])
    assert np.array_equal(rows_of(model, 2, [9]), rows_of(ToyModel(), 0, [1, 2, 3, 4, 9])[4:])


def test_a_saved_prefix_needs_cells_for_all_of_it():
    model = ToyModel(ToyConfig(num_cells=10))
    rows_of(model, 0, [1] * 6)
    saved = model.save(0)
    with pytest.raises(CacheFullError):
        model.restore(1, saved, 1)
    assert model.length(1) == 0
    model.truncate(0, 4)
    model.restore(1, saved, 6)
    assert model.free_cells() == 0


def test_a_full_cache_is_refused_and_recoverable():
    model = ToyModel(ToyConfig(num_cells=10))
    rows_of(model, 0, [1] * 6)
    with pytest.raises(CacheFullError) as caught:
        rows_of(model, 1, [1] * 5)
    assert (caught.value.wanted, caught.value.free, caught.value.total) == (5, 4, 10)
    assert model.length(1) == 0
    model.truncate(0, 5)
    assert len(rows_of(model, 1, [1] * 5)) == 5
    assert model.free_cells() == 0


def test_invalid_calls_change_nothing():
    model = ToyModel(ToyConfig(max_sequences=2))
    rows_of(model, 0, [1, 2, 3])
    saved = model.save(0)
    calls = [
        lambda: model.save(1),
        lambda: model.save(2),
        lambda: model.restore(0, saved, 1),
        lambda: model.restore(1, saved, 0),
        lambda: model.restore(1, saved, 4),
        lambda: model.restore(2, saved, 1),
        lambda: model.truncate(0, 4),
        lambda: model.truncate(0, -1),
        lambda: model.truncate(-1, 0),
        lambda: model.truncate(2, 0),
        lambda: model.length(-1),
        lambda: model.length(2),
        lambda: model.copy_prefix(0, 0, 1),
        lambda: model.copy_prefix(0, 1, 4),
        lambda: model.copy_prefix(0, 1, 0),
        lambda: model.copy_prefix(0, 2, 1),
        lambda: model.copy_prefix(-1, 1, 1),
        lambda: model.forward([Span(0, 2, [1])]),
    ]
    for call in calls:
        with pytest.raises(InvalidInputError):
            call()
    assert [model.length(0), model.length(1)] == [3, 0]


def test_close_frees_everything():
    model = ToyModel()
    rows_of(model, 0, [1, 2, 3])
    model.close()
    assert model.free_cells() == model.info.num_cells
    assert model.length(0) == 0


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
