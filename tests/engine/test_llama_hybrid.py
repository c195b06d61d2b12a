"""Models with attention and recurrent layers: equal bits beside other texts, and tested for it."""

import contextlib

import numpy as np
import pytest

from airdraft.nodes.engine import llama, llama_abi
from airdraft.nodes.engine.cells import CellLog
from airdraft.nodes.engine.llama import LlamaConfig, LlamaModel
from airdraft.nodes.engine.noise import drawn_ids
from airdraft.nodes.engine.protocol import ModelFileError, Span
from airdraft.nodes.engine.selftest import run_self_test
from tests.engine.kernels.tiny_models import Shape, write_model

# Longer than a second or two.
pytestmark = pytest.mark.slow

TEXT, OTHER = drawn_ids(1, 120, 300), drawn_ids(2, 40, 300)
BEGIN = 32


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_model(path, Shape(256, 4, 1, 64, 256, layers=4), "Q8_0", is_hybrid=True)
    return path


@contextlib.contextmanager
def opened(path, *, repack=True):
    config = LlamaConfig(path=path, num_cells=1024, max_sequences=3, repack=repack)
    with contextlib.closing(LlamaModel(config)) as model:
        assert not model.info.can_roll_back
        yield model


class SpanBySpan(CellLog):
    """A log that takes the cells of a pass to be in the order of its spans."""

    def __init__(self, total, max_sequences, queries_per_cell, _most_at_once):
        super().__init__(total, max_sequences, queries_per_cell)


def steps(model):
    """The logits of the text's other tokens, one a pass, and what is saved then."""
    spans = (Span(0, n, [TEXT[n]], 1) for n in range(BEGIN, len(TEXT)))
    rows = np.stack([model.forward([span])[0].copy() for span in spans])
    return rows, model.save(0).state


@pytest.mark.parametrize("repack", [True, False], ids=["our kernels", "ggml's kernels"])
@pytest.mark.parametrize("others", [(8,), (20, 8), (8, 40)], ids=str)
def test_a_text_that_ends_beside_a_longer_piece_of_another_changes_no_bit(path, repack, others):
    with opened(path, repack=repack) as model:
        for start in range(0, BEGIN, 16):
            model.forward([Span(0, start, TEXT[start : start + 16])])
        rows, state = steps(model)
        model.truncate(0, 0)
        pieces = [Span(seq_id, 0, OTHER[:count], 1) for seq_id, count in enumerate(others, 1)]
        model.forward([Span(0, 0, TEXT[:BEGIN]), *pieces])
        for piece in pieces:
            model.truncate(piece.seq_id, 0)
        found, left = steps(model)
        assert np.array_equal(found, rows)
        # Cells in another order change few logits of a small model.
        assert np.array_equal(left, state)


@pytest.mark.parametrize("repack", [True, False], ids=["our kernels", "ggml's kernels"])
def test_the_self_test_sees_a_log_of_another_order(path, repack, monkeypatch):
    with opened(path, repack=repack) as model:
        tested = run_self_test(model, prefix_lens=(60,))
        assert tested.exact, tested.failure
    monkeypatch.setattr(llama, "CellLog", SpanBySpan)
    with opened(path, repack=repack) as model:
        assert "two texts that take turns" in run_self_test(model, prefix_lens=(60,)).failure


def test_plamo_2_is_refused_before_it_can_end_the_process(path, monkeypatch):
    monkeypatch.setattr(llama_abi, "metadata_of", lambda _model, _key: "plamo2")
    with pytest.raises(ModelFileError, match="no two streams of a PLaMo 2"):
        LlamaModel(LlamaConfig(path=path))


def test_a_text_is_copied_with_its_state(path):
    with opened(path) as model:
        model.forward([Span(1, 0, OTHER[:8]), Span(0, 0, TEXT[:BEGIN])])
        model.copy_prefix(0, 2, BEGIN)
        spans = [Span(0, BEGIN, TEXT[BEGIN:60], 3), Span(2, BEGIN, TEXT[BEGIN:60], 3)]
        rows = model.forward(spans)
        assert np.array_equal(rows[:3], rows[3:])
