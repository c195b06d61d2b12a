"""What every engine promises of its sequences: toys, replays and llama.cpp."""

from __future__ import annotations

import numpy as np
import pytest

from bench.emulate.replay import ReplayConfig, ReplayModel
from nodes.engine.protocol import CacheFullError, InvalidInputError, Span
from nodes.engine.toy import ToyConfig, ToyModel
from tests.bench.emulate.recordings import COSTS, toy_recording

RECORDING = toy_recording(num_texts=1)
(RECORDED,) = RECORDING.texts
# A replay has logits from the last token of the prompt on, and takes no other text.
NUM = len(RECORDED.prompt_ids)
TEXT = (*RECORDED.prompt_ids, *RECORDED.output_ids)


def toy(**limits):
    return ToyModel(ToyConfig(**limits))


def replay(**limits):
    config = ReplayConfig(name="box", recording=RECORDING, costs=COSTS, **limits)
    return ReplayModel(config, now=lambda: 0.0, sleep=lambda _seconds: None)


@pytest.fixture(params=[toy, replay], ids=["toy", "replay"])
def make(request):
    return request.param


@pytest.fixture(params=["toy", "replay", pytest.param("llama", marks=pytest.mark.model)])
def engine(request):
    if request.param == "llama":
        return request.getfixturevalue("model")
    return {"toy": toy, "replay": replay}[request.param](max_sequences=4)


def row_after(model, seq_id, end):
    """Logits behind the text up to `end`, of which a sequence has the beginning."""
    start = model.length(seq_id)
    return model.forward([Span(seq_id, start, TEXT[start:end], 1)])[0].copy()


def test_calls_that_cannot_be_are_refused_and_change_nothing(engine):
    engine.forward([Span(0, 0, TEXT[:NUM])])
    saved = engine.save(0)
    wrong = {
        "forward": [
            ([],),
            ([Span(4, 0, TEXT[:1])],),
            ([Span(0, 2, TEXT[2:3])],),
            ([Span(1, 0, TEXT[:1]), Span(0, NUM, [2**31], 1)],),
        ],
        "length": [(-1,), (4,)],
        "save": [(1,), (4,)],
        "restore": [(0, saved, 1), (1, saved, 0), (1, saved, NUM + 1), (4, saved, 1)],
        "truncate": [(0, NUM + 1), (0, -1), (-1, 0), (4, 0)],
        "copy_prefix": [(0, 0, 1), (0, 1, NUM + 1), (0, 1, 0), (0, 4, 1), (-1, 1, 1), (4, 1, 1)],
    }
    for name, arguments in ((name, each) for name, calls in wrong.items() for each in calls):
        with pytest.raises(InvalidInputError):
            getattr(engine, name)(*arguments)
    assert [engine.length(seq_id) for seq_id in range(4)] == [NUM, 0, 0, 0]
    assert np.array_equal(row_after(engine, 0, NUM + 1), row_after(engine, 1, NUM + 1))


def test_rows_come_in_the_order_of_spans_and_only_for_outputs(engine):
    empty = engine.forward([Span(3, 0, TEXT[:2])])
    assert empty.shape == (0, engine.info.num_vocab)
    spans = [Span(2, 0, TEXT[: NUM + 2], 2), Span(0, 0, TEXT[:3]), Span(1, 0, TEXT[:NUM], 1)]
    rows = engine.forward(spans).copy()
    assert rows.dtype == np.float32
    for seq_id in range(3):
        engine.truncate(seq_id, 0)
    ends = (NUM + 1, NUM + 2, NUM)
    expected = [row_after(engine, seq_id, end) for seq_id, end in enumerate(ends)]
    assert np.array_equal(rows, np.stack(expected))


@pytest.mark.parametrize("is_saved", [False, True], ids=["copied", "saved"])
def test_a_prefix_goes_on_and_leaves_its_source_alone(make, is_saved):
    model = make()
    model.forward([Span(0, 0, TEXT[: NUM + 4])])
    saved = model.save(0)
    assert (saved.length, model.length(0)) == (NUM + 4, NUM + 4)
    if is_saved:
        model.truncate(0, 0)
    for target, length in ((1, NUM + 2), (2, 3), (3, NUM + 4)):
        if is_saved:
            model.restore(target, saved, length)
        else:
            model.copy_prefix(0, target, length)
        assert model.length(target) == length
        assert np.array_equal(row_after(model, target, NUM + 5), row_after(make(), 0, NUM + 5))
    assert model.length(0) == (0 if is_saved else NUM + 4)


def test_a_full_cache_says_so_and_can_be_used_again(make):
    model = make(num_cells=NUM + 5)
    model.forward([Span(0, 0, TEXT[:4])])
    saved = model.save(0)
    model.forward([Span(0, 4, TEXT[4 : NUM + 2])])
    for call in (lambda: model.forward([Span(1, 0, TEXT[:4])]), lambda: model.restore(1, saved, 1)):
        with pytest.raises(CacheFullError) as caught:
            call()
        assert (caught.value.wanted, caught.value.free, caught.value.total) == (4, 3, NUM + 5)
    assert str(caught.value) == f"KV cache full: 4 cells wanted, 3 of {NUM + 5} free"
    assert model.length(1) == 0
    model.truncate(0, NUM + 1)
    model.restore(1, saved, 4)
    assert model.free_cells() == 0
    model.close()
    assert (model.free_cells(), model.length(0)) == (NUM + 5, 0)
