"""The llama.cpp engine on a real model, opened once for each file of tests."""

import os

import pytest

from airdraft.nodes.catalog import Catalog, default_cache_dir
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_context import LlamaConfig
from tests.engine.llama_texts import NUM_CELLS


@pytest.fixture(scope="module")
def model_path():
    return Catalog(default_cache_dir(os.environ)).ensure("smollm2-135m")


@pytest.fixture(scope="module")
def loaded(model_path):
    config = LlamaConfig(path=model_path, num_cells=NUM_CELLS, max_sequences=4)
    model = LlamaModel(config)
    yield model
    model.close()


@pytest.fixture
def model(loaded):
    yield loaded
    for seq_id in range(loaded.config.max_sequences):
        loaded.truncate(seq_id, 0)
    assert loaded.free_cells() == NUM_CELLS
