"""A model in stages computes the bits of the whole model, whatever its caches went through."""

import contextlib
import gc
import random
from dataclasses import replace

import numpy as np
import pytest

from airdraft.nodes.engine.kernels import library
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.noise import drawn_ids
from airdraft.nodes.engine.protocol import CacheFullError, EngineError, InvalidInputError, Span
from airdraft.nodes.engine.selftest import run_self_test
from airdraft.nodes.engine.split.stage import Piece, StageModel
from bench.rows import StagesHere, compared, in_stages, known_texts, stage_files
from tests.engine.kernels.tiny_head import write_model_with_head
from tests.engine.kernels.tiny_models import Shape, write_model

# Longer than a second or two.
pytestmark = pytest.mark.slow

TEXT = drawn_ids(1, 400, 300)
SHAPE = Shape(256, 4, 1, 64, 256, layers=4)


@pytest.fixture(scope="module", params=["Q8_0", "Q4_K_M", "F16"])
def path(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_model(path, SHAPE, request.param)
    return path


def configured(path, **options):
    options = {"num_cells": 1024, "max_sequences": 5, "first_cells": 256} | options
    return LlamaConfig(path=path, **options)


@contextlib.contextmanager
def split(path, cuts, folder, **options):
    with contextlib.closing(in_stages(configured(path, **options), cuts, folder)) as model:
        yield model


@pytest.fixture(scope="module")
def whole(path):
    """What the whole model's self-test sees, and texts as it writes them."""
    with contextlib.closing(LlamaModel(configured(path))) as model:
        tested = run_self_test(model, prefix_lens=(60,))
        return model.info, tested, known_texts(model, 40)


@pytest.mark.parametrize("cuts", [[1], [3], [1, 2]], ids=str)
def test_it_is_of_the_class_of_the_whole_model(path, whole, cuts, tmp_path):
    info, tested, texts = whole
    with split(path, cuts, tmp_path) as model:
        assert tested.exact
        assert run_self_test(model, prefix_lens=(60,)) == tested
        assert model.info.numerics_class == info.numerics_class
        mine = known_texts(model, 40)
        for text, own in zip(texts, mine, strict=True):
            assert np.array_equal(own.rows, text.rows)
        # What the last stage's cache holds is not what that of the whole model does.
        found = compared(model, mine, 4, random.Random(1))
        assert (found.num_other_rows, found.num_other_states) == (0, 0)
        assert model.free_cells() == 1024


@pytest.mark.parametrize(
    ("write", "cuts"),
    [
        (lambda path: write_model(path, replace(SHAPE, layers=6), "Q8_0", is_hybrid=True), [2, 4]),
        # Its positions have four parts, and its last part has a head that guesses, too.
        (lambda path: write_model_with_head(path, 3), [4, 8]),
    ],
    ids=["lfm2", "qwen35"],
)
def test_recurrent_layers_in_stages_take_guesses_back(tmp_path, write, cuts):
    """As with all stages in one, also beside compactions, copies and texts that are saved."""
    path = tmp_path / "hybrid.gguf"
    write(path)
    with contextlib.closing(LlamaModel(configured(path))) as model:
        tested, texts = run_self_test(model, prefix_lens=(60,)), known_texts(model, 40)
    assert tested.exact
    with split(path, cuts, tmp_path) as model:
        assert model.info.can_take_back
        assert not model.info.can_cut
        assert run_self_test(model, prefix_lens=(60,)) == tested
        mine = known_texts(model, 40)
        for text, own in zip(texts, mine, strict=True):
            assert np.array_equal(own.rows, text.rows)
        for seed in range(3):
            found = compared(model, mine, 4, random.Random(seed))
            assert (found.num_other_rows, found.num_other_states) == (0, 0)
        # There are no groups, beside which states could not go back.
        assert model.own_share == 0.0


def test_a_long_pass_goes_through_in_pieces(path, whole, tmp_path, monkeypatch):
    passes = []

    def begin(stages, pieces, rows):
        passes.append([(piece.seq_id, piece.count) for piece in pieces])
        begun(stages, pieces, rows)

    begun = StagesHere.begin
    monkeypatch.setattr(StagesHere, "begin", begin)
    with split(path, [2], tmp_path) as model:
        model.forward([Span(0, 0, TEXT[:100])])
        passes.clear()
        rows = model.forward([Span(0, 100, TEXT[100:140], 30), Span(1, 0, TEXT[:20], 2)])
        assert passes == [[(0, 16)], [(0, 16)], [(0, 8), (1, 8)], [(1, 12)]]
        rows = rows.copy()
        model.truncate(0, 0)
        model.truncate(1, 0)
        single = [model.forward([Span(0, n, TEXT[n : n + 1], 1)])[0].copy() for n in range(140)]
    assert np.array_equal(rows, np.stack([*single[110:], *single[18:20]]))


def test_two_passes_under_way_have_the_bits_of_one_after_the_other(path, tmp_path):
    texts = [drawn_ids(seq_id, 900, 300) for seq_id in range(4)]

    def spans(seq_ids, at, count):
        return [Span(seq_id, at, texts[seq_id][at : at + count], count) for seq_id in seq_ids]

    with split(path, [1, 2], tmp_path, num_cells=2048) as model:
        model.forward(spans(range(4), 0, 30))
        rows, at = {}, 30
        model.begin(spans((0, 1), at, 6))
        # Long enough for compactions, and for a cache that grows.
        for turn in range(1, 120):
            group = (0, 1) if turn % 2 == 0 else (2, 3)
            start = at + 3 * (turn // 2)
            model.begin(spans(group, start, 6))
            before = (2, 3) if turn % 2 == 0 else (0, 1)
            start = at + 3 * ((turn - 1) // 2)
            found = model.finish().copy()
            for number, seq_id in enumerate(before):
                rows[seq_id, start] = found[6 * number : 6 * number + 6]
                # As after wrong guesses.
                model.truncate(seq_id, start + 3)
        model.finish()
        with pytest.raises(InvalidInputError):
            model.begin(spans((0,), 5, 1))
        for seq_id in range(4):
            model.truncate(seq_id, 0)
        for seq_id in (0, 3):
            model.forward(spans((seq_id,), 0, 30))
            for start in sorted(start for each, start in rows if each == seq_id):
                wanted = model.forward(spans((seq_id,), start, 6))
                assert np.array_equal(wanted, rows[seq_id, start])
                model.truncate(seq_id, start + 3)


def test_texts_that_nobody_can_restore_are_dropped_in_all_stages(path, tmp_path, monkeypatch):
    dropped = []
    monkeypatch.setattr(StagesHere, "drop", lambda _stages, slot: dropped.append(slot))
    with split(path, [2], tmp_path) as model:
        model.forward([Span(0, 0, TEXT[:50])])
        saved = model.save(0)
        model.restore(1, saved, 30)
        model.truncate(0, 30)
        rows = [model.forward([Span(seq_id, 30, TEXT[30:31], 1)])[0].copy() for seq_id in (0, 1)]
        assert np.array_equal(*rows)
        with pytest.raises(EngineError, match="cannot be restored"):
            model.restore(2, replace(saved), 30)
        assert not dropped
        del saved
        gc.collect()
        assert len(dropped) == 1


def test_a_stage_refuses_what_does_not_fit(path, tmp_path):
    (first, _), model_hash = stage_files(path, [2], tmp_path)
    with contextlib.closing(StageModel(configured(first), model_hash=model_hash)) as stage:
        rows = np.zeros((4, stage.width), np.float32)
        with pytest.raises(InvalidInputError, match="but 0 are in the cache"):
            stage.run([Piece(0, 3, 4)], rows)
        with pytest.raises(InvalidInputError, match="outside 0"):
            stage.run([Piece(9, 0, 4)], rows)
        for start in range(0, 1024, 256):
            stage.run([Piece(0, start, 256)], np.zeros((256, stage.width), np.float32))
        with pytest.raises(CacheFullError):
            stage.run([Piece(1, 0, 4)], rows)


def test_no_stage_without_the_kernels(path, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "library", lambda: None)
    with pytest.raises(EngineError, match="needs the kernels"), split(path, [2], tmp_path):
        pass
