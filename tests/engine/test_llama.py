"""The llama.cpp engine on a real model: what it is, and that nothing ends the process."""

import contextlib
import os

import numpy as np
import pytest

from nodes.catalog import Catalog, default_cache_dir
from nodes.engine import llama_abi
from nodes.engine.llama import LlamaConfig, LlamaModel
from nodes.engine.protocol import InvalidInputError, Span
from tests.engine.llama_texts import NUM_CELLS, PROMPT, needs_model, step


@needs_model
@pytest.mark.parametrize(
    "spans",
    [
        pytest.param([], id="nothing"),
        pytest.param([Span(0, 3, [])], id="no tokens"),
        pytest.param([Span(0, 3, [-1])], id="negative token"),
        pytest.param([Span(0, 3, [49_152])], id="token beyond the vocabulary"),
        pytest.param([Span(0, 3, [2**31])], id="token beyond int32"),
        pytest.param([Span(-1, 0, [1])], id="negative sequence"),
        pytest.param([Span(4, 0, [1])], id="the graveyard"),
        pytest.param([Span(1000, 0, [1])], id="sequence out of range"),
        pytest.param([Span(0, 2, [1])], id="start inside"),
        pytest.param([Span(0, 4, [1])], id="start beyond"),
        pytest.param([Span(1, 0, [1]), Span(1, 1, [1])], id="twice"),
        pytest.param([Span(1, 0, [1] * 257)], id="too many tokens"),
        pytest.param([Span(1, 0, [1] * 200), Span(2, 0, [1] * 57)], id="too many together"),
        pytest.param([Span(1, 0, [1], 2)], id="too many outputs"),
        pytest.param([Span(1, 0, [1], -1)], id="negative outputs"),
        pytest.param([Span(1, 0, [1], 1), Span(0, 3, [-1], 1)], id="second span wrong"),
    ],
)
def test_a_wrong_pass_is_refused_and_changes_nothing(model, spans):
    model.forward([Span(0, 0, PROMPT[:3])])
    with pytest.raises(InvalidInputError):
        model.forward(spans)
    assert [model.length(i) for i in range(4)] == [3, 0, 0, 0]
    after = step(model, 0, PROMPT[3:6])
    model.truncate(0, 0)
    assert np.array_equal(after, step(model, 0, PROMPT[:6])[3:])


@needs_model
def test_wrong_sequences_and_lengths_are_refused(model):
    model.forward([Span(0, 0, PROMPT[:3])])
    saved = model.save(0)
    calls = [
        lambda: model.save(1),
        lambda: model.save(4),
        lambda: model.restore(0, saved, 1),
        lambda: model.restore(1, saved, 0),
        lambda: model.restore(1, saved, 4),
        lambda: model.restore(4, saved, 1),
        lambda: model.truncate(0, 4),
        lambda: model.truncate(0, -1),
        lambda: model.truncate(4, 0),
        lambda: model.truncate(-1, 0),
        lambda: model.length(-1),
        lambda: model.copy_prefix(0, 0, 2),
        lambda: model.copy_prefix(0, 1, 4),
        lambda: model.copy_prefix(0, 1, 0),
        lambda: model.copy_prefix(0, 4, 1),
        lambda: model.copy_prefix(4, 1, 1),
    ]
    for call in calls:
        with pytest.raises(InvalidInputError):
            call()
    assert [model.length(i) for i in range(4)] == [3, 0, 0, 0]


@needs_model
def test_rows_come_in_span_order_and_only_for_outputs(model):
    rows = model.forward(
        [Span(2, 0, PROMPT[:5], 1), Span(0, 0, PROMPT[5:9]), Span(1, 0, PROMPT[9:12], 2)]
    ).copy()
    assert rows.shape == (3, 49_152)
    assert rows.dtype == np.float32
    for seq_id in range(3):
        model.truncate(seq_id, 0)
    assert np.array_equal(rows[:1], step(model, 2, PROMPT[:5])[4:])
    assert np.array_equal(rows[1:], step(model, 1, PROMPT[9:12])[1:])
    assert model.forward([Span(0, 0, PROMPT)]).shape == (0, 49_152)


@needs_model
def test_info_tells_what_the_model_is(model, model_path):
    info = model.info
    assert info.engine == "llama.cpp"
    assert info.model == model_path.name
    assert info.model_hash == llama_abi.hash_file(model_path)
    assert (info.num_vocab, info.num_cells, info.max_sequences) == (49_152, NUM_CELLS, 4)
    assert info.can_roll_back
    assert not info.emulated
    assert info.eog_token_ids >= {2}
    assert not info.exact
    model.set_tested(exact=True, digest="")
    assert model.info.exact
    assert model.info.numerics_class == info.numerics_class
    model.set_tested(exact=False, digest="")


@needs_model
def test_another_build_of_the_same_name_or_other_software_is_of_another_class(model_path):
    def class_of(digest: str, software: str = "") -> str:
        config = LlamaConfig(path=model_path, num_cells=256, max_sequences=1)
        with contextlib.closing(LlamaModel(config)) as model:
            model.set_tested(exact=True, digest=digest, software=software)
            return model.info.numerics_class

    assert class_of("a") == class_of("a")
    classes = {class_of(""), class_of("a"), class_of("b"), class_of("a", "b"), class_of("", "a")}
    assert len(classes) == 5


@needs_model
def test_the_vocabulary_hash_is_that_of_a_sibling_but_the_numerics_class_is_not(model):
    path = Catalog(default_cache_dir(os.environ)).ensure("smollm2-135m-q4_0")
    draft = LlamaModel(LlamaConfig(path=path, num_cells=256, max_sequences=1))
    try:
        assert draft.info.vocab_hash == model.info.vocab_hash
        assert draft.info.numerics_class != model.info.numerics_class
        assert draft.info.model_hash != model.info.model_hash
    finally:
        draft.close()
