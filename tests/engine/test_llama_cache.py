"""The llama.cpp engine gives the bits of a text alone, however its cache came about."""

import contextlib
import itertools

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from airdraft.nodes.engine.cells import CellLog
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_abi import library
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.noise import drawn_ids
from airdraft.nodes.engine.protocol import CacheFullError, SavedPrefix, Span
from tests.engine.kernels.tiny_models import Shape, write_model

# Longer than a second or two.
pytestmark = pytest.mark.slow

NUM_CELLS, NUM_SEQUENCES, NUM_BRANCHES, NUM_VOCAB = 256, 4, 3, 300
# Two texts that begin alike, and tokens that follow neither.
COMMON = drawn_ids(1, 30, NUM_VOCAB)
TEXTS = [COMMON + drawn_ids(seed, 90, NUM_VOCAB) for seed in (2, 3)]
WRONG = drawn_ids(4, 3, NUM_VOCAB)

seq_ids = st.integers(0, NUM_SEQUENCES - 1)
all_ids = st.integers(0, NUM_SEQUENCES + NUM_BRANCHES - 1)
shares = st.sampled_from([0.0, 1.0]) | st.floats(0, 1)
# A sequence, its text if it is empty, how many tokens of it, and of wrong ones behind them.
parts = st.tuples(all_ids, st.integers(0, 1), st.integers(1, 40), st.sampled_from([0, 0, 1, 3]))


def rows_alone(model: LlamaModel, text: list[int]) -> np.ndarray:
    """The logits after each token of a text that is alone in the cache."""
    spans = (Span(0, position, [token_id], 1) for position, token_id in enumerate(text))
    rows = [model.forward([span])[0].copy() for span in spans]
    model.truncate(0, 0)
    return np.stack(rows)


class CacheMachine(RuleBasedStateMachine):
    """Sequences and branches are read beside others, cut, copied, saved and restored, also in a
    full cache."""

    model: LlamaModel
    rows: list[np.ndarray]

    def __init__(self) -> None:
        super().__init__()
        self.texts, self.lengths = ([0] * (NUM_SEQUENCES + NUM_BRANCHES) for _ in range(2))
        self.saved: list[tuple[int, SavedPrefix]] = []

    @rule(
        parts=st.lists(parts, min_size=1, max_size=3, unique_by=lambda part: part[0]),
        has_outputs=st.booleans(),
        is_due=st.booleans(),
        num_threads=st.sampled_from([1, 1, 1, 1, 2]),
    )
    def read(self, parts, has_outputs, is_due, num_threads):
        spans, wanted = [], []
        for seq_id, text, count, num_wrong in parts:
            start = self.lengths[seq_id]
            text = self.texts[seq_id] = self.texts[seq_id] if start else text
            if right := TEXTS[text][start : start + count]:
                token_ids = right + WRONG[:num_wrong]
                spans.append(Span(seq_id, start, token_ids, len(token_ids) * has_outputs))
                wanted.append((seq_id, self.rows[text][start : start + len(right)]))
        self.model.set_threads(num_threads)
        dues = itertools.chain([is_due], itertools.repeat(False))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CellLog, "should_compact", lambda _log: next(dues))
            num_tokens = sum(len(span.token_ids) for span in spans)
            if num_tokens > self.model.free_cells():
                with pytest.raises(CacheFullError):
                    self.model.make_room(num_tokens)
                return
            self.model.make_room(num_tokens)
            self.find_lost_branches()
            # Such a branch has another length now.
            has_all = [span.start == self.lengths[span.seq_id] for span in spans]
            spans, wanted = (list(itertools.compress(each, has_all)) for each in (spans, wanted))
            if not spans:
                return
            found = self.model.forward(spans).copy()
        for span, (seq_id, rows) in zip(spans, wanted, strict=True):
            if has_outputs:
                assert np.array_equal(found[: len(rows)], rows)
                found = found[len(span.token_ids) :]
            self.lengths[seq_id] += len(rows)
            self.model.truncate(seq_id, self.lengths[seq_id])

    def find_lost_branches(self):
        for seq_id in range(NUM_SEQUENCES, NUM_SEQUENCES + NUM_BRANCHES):
            if not self.model.length(seq_id):
                self.lengths[seq_id] = 0

    @rule(seq_id=all_ids, share=shares)
    def cut(self, seq_id, share):
        self.lengths[seq_id] = int(self.lengths[seq_id] * share)
        self.model.truncate(seq_id, self.lengths[seq_id])

    @rule(source=all_ids, other=all_ids, share=shares)
    def copy(self, source, other, share):
        length = int(self.lengths[source] * share)
        if length and source != other:
            if other < NUM_SEQUENCES:
                self.cut(other, 0)
            self.model.copy_prefix(source, other, length)
            self.texts[other], self.lengths[other] = self.texts[source], length

    @rule(seq_id=seq_ids)
    def save(self, seq_id):
        if self.lengths[seq_id]:
            self.saved.append((self.texts[seq_id], self.model.save(seq_id)))

    @rule(seq_id=seq_ids, share=shares)
    def restore(self, seq_id, share):
        self.cut(seq_id, 0)
        if not self.saved:
            return
        text, saved = self.saved[-1]
        length = max(1, int(saved.length * share))
        if saved.length > self.model.free_cells():
            with pytest.raises(CacheFullError):
                self.model.restore(seq_id, saved, length)
            return
        self.model.restore(seq_id, saved, length)
        self.find_lost_branches()
        self.texts[seq_id], self.lengths[seq_id] = text, length

    @invariant()
    def lengths_are_known_and_all_other_cells_are_free(self):
        assert [self.model.length(seq_id) for seq_id in range(len(self.lengths))] == self.lengths
        assert self.model.free_cells() >= NUM_CELLS - sum(self.lengths[:NUM_SEQUENCES])

    def teardown(self):
        for seq_id in range(len(self.lengths)):
            self.model.truncate(seq_id, 0)
        assert self.model.free_cells() == NUM_CELLS


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_model(path, Shape(256, 4, 1, 64, 256), "Q8_0")
    return path


@pytest.fixture(scope="module", params=[True, False], ids=["our kernels", "ggml's kernels"])
def model(request, model_path):
    config = LlamaConfig(
        path=model_path,
        num_cells=NUM_CELLS,
        max_sequences=NUM_SEQUENCES,
        num_branches=NUM_BRANCHES,
        repack=request.param,
    )
    with contextlib.closing(LlamaModel(config)) as opened:
        yield opened


def test_the_bits_of_a_text_do_not_depend_on_what_the_cache_went_through(model):
    CacheMachine.model, CacheMachine.rows = model, [rows_alone(model, text) for text in TEXTS]
    steps = settings(max_examples=25, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(CacheMachine, settings=steps)


def test_shared_cells_that_were_given_up_are_not_taken_for_free(model):
    model.forward([Span(0, 0, TEXTS[0][:30]), Span(1, 0, TEXTS[1][:100])])
    model.copy_prefix(1, 2, 100)
    assert model.free_cells() == NUM_CELLS - 130
    model.truncate(1, 0)
    model.truncate(2, 0)
    # That many cells are free only after a compaction, which must happen by itself.
    assert model.free_cells() == NUM_CELLS - 30
    model.forward([Span(3, 0, [7] * 226)])
    assert model.free_cells() == 0
    for seq_id in (0, 3):
        model.truncate(seq_id, 0)


@pytest.mark.parametrize("repack", [True, False], ids=["our kernels", "ggml's kernels"])
def test_a_cache_that_grows_gives_the_bits_of_a_large_one(model_path, repack):
    text, other = drawn_ids(5, 600, NUM_VOCAB), drawn_ids(6, 300, NUM_VOCAB)
    found = []
    for first in (256, 1024):
        config = LlamaConfig(
            path=model_path, num_cells=1024, first_cells=first, max_sequences=3, repack=repack
        )
        with contextlib.closing(LlamaModel(config)) as model:
            assert model.info.num_cells == model.free_cells() == 1024
            rows = []
            for start in range(0, 600, 20):
                spans = [Span(0, start, text[start : start + 20], 20)]
                if start < 300:
                    spans.append(Span(1, start, other[start : start + 20]))
                rows += list(model.forward(spans).copy())
            model.copy_prefix(0, 2, 100)
            assert model.free_cells() == 1024 - 900
            found.append((np.stack(rows), model.save(1).state, model.info.numerics_class))
            with pytest.raises(CacheFullError):
                model.forward([Span(1, 300, [1] * 200)])
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])
    assert found[0][2] == found[1][2]


def test_a_cache_does_not_grow_without_memory(model_path, monkeypatch):
    config = LlamaConfig(path=model_path, num_cells=1024, first_cells=256, max_sequences=2)
    with contextlib.closing(LlamaModel(config)) as model:
        monkeypatch.setattr(library(), "llama_init_from_model", opening_up_to(256))
        model.forward([Span(0, 0, TEXTS[0] * 2)])
        rows = model.forward([Span(1, 0, TEXTS[1][:10], 10)]).copy()
        assert model.info.num_cells == 1024
        with pytest.raises(CacheFullError):
            model.forward([Span(1, 10, TEXTS[1][10:])])
        assert model.free_cells() == 256 - 250
        model.truncate(0, 0)
        assert np.array_equal(model.forward([Span(0, 0, TEXTS[1][:10], 10)]), rows)


def opening_up_to(most: int):
    """Opens contexts of so many cells at most, as if memory was short."""
    opened = library().llama_init_from_model
    return lambda model, params: opened(model, params) if params.n_ctx <= most else None
