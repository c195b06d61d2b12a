"""Texts for the llama.cpp engine of the tests, and how they go through it."""

import contextlib

import numpy as np
import pytest

from nodes.engine.cells import CellLog
from nodes.engine.llama_abi import library, load_model
from nodes.engine.protocol import Span
from nodes.engine.vocab import LlamaTokenizer

NUM_CELLS = 512
PROMPT = [int(i) for i in np.random.default_rng(1).integers(3, 49_000, 40)]
TEXT = [int(i) for i in np.random.default_rng(2).integers(3, 49_000, 24)]
FOREIGN = [int(i) for i in np.random.default_rng(3).integers(3, 49_000, 200)]
needs_model = pytest.mark.model


@contextlib.contextmanager
def vocabulary_of(path):
    """The tokenizer of a model file, whose weights stay where they are."""
    pointer = load_model(path, gpu_layers=0, repack=False, vocab_only=True)
    try:
        yield LlamaTokenizer(pointer)
    finally:
        library().llama_model_free(pointer)


def feed(model, *texts):
    """Passes without outputs, one after the other: of each a sequence and more tokens of it."""
    for seq_id, token_ids in texts:
        model.forward([Span(seq_id, model.length(seq_id), token_ids)])


def step(model, seq_id, token_ids):
    """A pass of one sequence; its logits, one row a token."""
    start = model.length(seq_id)
    return model.forward([Span(seq_id, start, token_ids, len(token_ids))]).copy()


def steps(model, seq_id, token_ids):
    return np.concatenate([step(model, seq_id, [token_id]) for token_id in token_ids])


def prefill_and_step(model, seq_id):
    feed(model, (seq_id, PROMPT))
    return steps(model, seq_id, TEXT)


def note_compactions(monkeypatch):
    """The garbage that each compaction of living sequences removes, in cells."""
    removed, compacted = [], CellLog.compacted

    def noted(log):
        if log.live:
            removed.append(log.garbage)
        compacted(log)

    monkeypatch.setattr(CellLog, "compacted", noted)
    return removed
