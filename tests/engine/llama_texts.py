"""What tests of the llama.cpp engine share."""

import contextlib

import pytest

from airdraft.nodes.engine.llama_abi import library, load_model
from airdraft.nodes.engine.vocab import LlamaTokenizer

NUM_CELLS = 512
needs_model = pytest.mark.model


@contextlib.contextmanager
def vocabulary_of(path):
    """The tokenizer of a model file, whose weights stay where they are."""
    pointer = load_model(path, gpu_layers=0, repack=False, vocab_only=True)
    try:
        yield LlamaTokenizer(pointer)
    finally:
        library().llama_model_free(pointer)
