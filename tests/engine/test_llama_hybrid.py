"""Models with attention and recurrent layers: equal bits beside other texts and with guesses."""

import contextlib
import random

import numpy as np
import pytest

from airdraft.nodes.engine import llama, llama_abi, load, snapshots, states
from airdraft.nodes.engine.cells import CellLog
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.noise import drawn_ids
from airdraft.nodes.engine.protocol import InvalidInputError, ModelFileError, Span
from airdraft.nodes.engine.selftest import run_self_test
from airdraft.nodes.engine.snapshots import SnapshotModel
from airdraft.nodes.engine.states import KeptStates
from bench.rows import compared, known_texts
from tests.engine.kernels.tiny_models import Shape, write_model

# Longer than a second or two.
pytestmark = pytest.mark.slow

TEXT, OTHER = drawn_ids(1, 120, 300), drawn_ids(2, 40, 300)
BEGIN = 32
KERNELS = pytest.mark.parametrize("repack", [True, False], ids=["our kernels", "ggml's kernels"])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_model(path, Shape(256, 4, 1, 64, 256, layers=4), "Q8_0", is_hybrid=True)
    return path


@contextlib.contextmanager
def opened(path, *, num_cells=1024, max_sequences=3, **options):
    config = LlamaConfig(path=path, num_cells=num_cells, max_sequences=max_sequences, **options)
    kind = SnapshotModel if config.num_snapshots else LlamaModel
    with contextlib.closing(kind(config)) as model:
        assert not model.info.can_cut
        yield model


class SpanBySpan(CellLog):
    """A log that takes the cells of a pass to be in the order of its spans."""

    def __init__(self, total, max_sequences, queries_per_cell, _most_at_once, num_branches):
        super().__init__(total, max_sequences, queries_per_cell, num_branches=num_branches)


def steps(model):
    """The logits of the text's other tokens, one a pass, and what is saved then."""
    spans = (Span(0, n, [TEXT[n]], 1) for n in range(BEGIN, len(TEXT)))
    rows = np.stack([model.forward([span])[0].copy() for span in spans])
    return rows, model.save(0).state


@KERNELS
@pytest.mark.parametrize("takes_back", [True, False], ids=["guesses", "no guesses"])
@pytest.mark.parametrize("others", [(8,), (20, 8), (8, 40)], ids=str)
def test_a_text_that_ends_beside_a_longer_piece_of_another_changes_no_bit(
    path, repack, takes_back, others
):
    with opened(path, repack=repack, takes_back=takes_back) as model:
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


@KERNELS
@pytest.mark.parametrize("num_snapshots", [0, 5, 16], ids="{} snapshots".format)
@pytest.mark.parametrize("num_streams", [1, 4, 6])
def test_no_bit_depends_on_guesses_cuts_copies_compactions_or_other_texts(
    path, repack, num_streams, num_snapshots
):
    options = {"repack": repack, "num_snapshots": num_snapshots, "first_cells": 256}
    with opened(path, num_cells=1024, max_sequences=num_streams + 1, **options) as model:
        texts = known_texts(model, 40)
        for seed in range(2):
            found = compared(model, texts, num_streams, random.Random(seed))
            assert found.num_rows > 400
            assert (found.num_other_rows, found.num_other_states) == (0, 0)
            assert model.free_cells() == model.info.num_cells


@KERNELS
def test_the_self_test_sees_a_log_of_another_order(path, repack, monkeypatch):
    for takes_back in (True, False):
        with opened(path, repack=repack, takes_back=takes_back) as model:
            tested = run_self_test(model, prefix_lens=(60,))
            assert tested.exact, tested.failure
    monkeypatch.setattr(llama, "CellLog", SpanBySpan)
    with opened(path, repack=repack, takes_back=False) as model:
        assert "two texts that take turns" in run_self_test(model, prefix_lens=(60,)).failure


@pytest.mark.parametrize("name", ["keep", "put_back"])
def test_a_model_whose_states_do_not_go_back_is_served_without_guesses(path, name, monkeypatch):
    monkeypatch.setattr(KeptStates, name, lambda *_: None)
    opened = load.open_model(LlamaConfig(path=path, num_cells=1024, max_sequences=3), None)
    with contextlib.closing(opened.model) as model:
        assert model.info.exact
        assert not model.info.can_take_back


def test_a_text_is_cut_to_where_its_state_was_kept_and_no_further(path):
    with opened(path) as model:
        model.forward([Span(0, 0, TEXT[:BEGIN])])
        model.forward([Span(0, BEGIN, TEXT[BEGIN:40], 8, keeps=True)])
        model.truncate(0, 36)
        assert (model.length(0), model.num_pending(0), model.shortest(0)) == (36, 4, BEGIN)
        model.truncate(0, 34)
        assert model.num_pending(0) == 2
        with pytest.raises(InvalidInputError, match="no state to go back to 31 tokens"):
            model.truncate(0, BEGIN - 1)
        saved = model.save(0)
        model.restore(1, saved, 33)
        model.copy_prefix(0, 2, 34)
        assert [model.num_pending(seq_id) for seq_id in range(3)] == [2, 1, 2]
        rows = model.forward(
            [Span(0, 34, TEXT[34:35], 1), Span(1, 33, TEXT[33:35], 1), Span(2, 34, TEXT[34:35], 1)]
        )
        assert np.array_equal(rows[0], rows[1])
        assert np.array_equal(rows[0], rows[2])


def test_a_model_whose_second_states_take_too_much_memory_has_no_guesses(path, monkeypatch, caplog):
    monkeypatch.setattr(states, "available_memory", lambda: 10_000)
    with opened(path) as model:
        assert not model.info.can_take_back
    assert "no guesses: second states of 3 streams take" in caplog.text


def test_a_compaction_keeps_the_state_that_a_sequence_can_go_back_to(path):
    with opened(path) as model:
        model.forward([Span(0, 0, TEXT[:BEGIN])])
        spans = (Span(0, n, [TEXT[n]], 1, keeps=n == BEGIN) for n in range(BEGIN, 50))
        rows = [model.forward([span])[0].copy() for span in spans]
        model.compact()
        model.truncate(0, BEGIN)
        found = model.forward([Span(0, BEGIN, TEXT[BEGIN:40], 8)])
        assert np.array_equal(found, rows[:8])


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


def test_snapshots_are_used_if_they_hold_and_kept_states_otherwise(path, monkeypatch):
    config = LlamaConfig(path=path, num_cells=1024, max_sequences=3, num_snapshots=16)
    for breaks in (False, True):
        if breaks:
            # Spans of unequal lengths leave snapshots of other sequences.
            monkeypatch.setattr(snapshots, "padded", lambda span, _length: span)
        with contextlib.closing(load.open_model(config, None).model) as model:
            assert model.info.exact
            assert model.info.can_take_back
            assert model.info.num_snapshots == (0 if breaks else 16)
