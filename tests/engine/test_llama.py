"""The llama.cpp engine on a real model: what it is, and that nothing ends the process."""

import contextlib
import os

import pytest

from nodes.catalog import Catalog, default_cache_dir
from nodes.engine import llama_abi
from nodes.engine.llama import LlamaConfig, LlamaModel
from tests.engine.llama_texts import NUM_CELLS

pytestmark = pytest.mark.model


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


def test_another_build_of_the_same_name_or_other_software_is_of_another_class(model_path):
    def class_of(digest: str, software: str = "") -> str:
        config = LlamaConfig(path=model_path, num_cells=256, max_sequences=1)
        with contextlib.closing(LlamaModel(config)) as model:
            model.set_tested(exact=True, digest=digest, software=software)
            return model.info.numerics_class

    assert class_of("a") == class_of("a")
    classes = {class_of(""), class_of("a"), class_of("b"), class_of("a", "b"), class_of("", "a")}
    assert len(classes) == 5


def test_the_vocabulary_hash_is_that_of_a_sibling_but_the_numerics_class_is_not(model):
    path = Catalog(default_cache_dir(os.environ)).ensure("smollm2-135m-q4_0")
    draft = LlamaModel(LlamaConfig(path=path, num_cells=256, max_sequences=1))
    try:
        assert draft.info.vocab_hash == model.info.vocab_hash
        assert draft.info.numerics_class != model.info.numerics_class
        assert draft.info.model_hash != model.info.model_hash
    finally:
        draft.close()
