"""The default draft as it is shipped: of its target's vocabulary, calibrated, and quick to open."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from airdraft.nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET, Catalog, default_cache_dir
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.worker.engines import calibration_of

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def draft() -> Iterator[LlamaModel]:
    path = Catalog(default_cache_dir(os.environ)).ensure(DEFAULT_DRAFT)
    model = LlamaModel(LlamaConfig(path=path, profile="fast", num_cells=512, max_sequences=2))
    yield model
    model.close()


def test_it_speaks_with_its_targets_tokens(draft: LlamaModel) -> None:
    path = Catalog(default_cache_dir(os.environ)).ensure(DEFAULT_TARGET)
    target = LlamaModel(LlamaConfig(path=path, num_cells=256, max_sequences=1))
    assert draft.info.vocab_hash == target.info.vocab_hash
    assert draft.info.can_take_back
    target.close()


def test_its_file_says_how_sure_it_is(draft: LlamaModel) -> None:
    calibration = calibration_of(draft)
    for table in (calibration.greedy, calibration.sampled):
        assert table.chance(0.99) > 0.8 > 0.3 > table.chance(0.01)


def test_a_file_without_such_words_is_taken_as_unknown(draft: LlamaModel) -> None:
    assert draft.metadata("airdraft.nothing") == ""
    assert draft.metadata("general.architecture") == "llama"
    # Far longer than any calibration: a chat template, for one.
    assert draft.metadata("tokenizer.chat_template") != ""
