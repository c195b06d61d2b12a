"""The toy keeps the Model protocol's promises, and a draft agrees as often as it was told to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.engine.protocol import InvalidInputError, Span
from nodes.engine.sampling import Sampling, sample
from nodes.engine.toy import TOY_EOG, ToyConfig, ToyModel, ToyTokenizer


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
