"""The llama.cpp engine gives the same bits when its cache is cut, full, compacted, shared or
restored, and on other threads."""

import numpy as np
import pytest

from nodes.engine.cells import CellLog
from nodes.engine.protocol import CacheFullError, Span
from tests.engine.llama_texts import (
    FOREIGN,
    NUM_CELLS,
    PROMPT,
    TEXT,
    feed,
    note_compactions,
    step,
    steps,
)

pytestmark = pytest.mark.model


def test_rolled_back_guesses_leave_no_trace(model, alone):
    feed(model, (0, PROMPT))
    for index, token_id in enumerate(TEXT):
        wrong = FOREIGN[index : index + index % 5]
        row = step(model, 0, [token_id, *wrong])[0]
        model.truncate(0, len(PROMPT) + index + 1)
        assert np.array_equal(row, alone[index])


def test_a_sequence_does_not_refill_the_hole_its_neighbour_left(model, alone):
    """llama.cpp would put the new cells below the sequence's own, and the bits would change."""
    feed(model, (1, FOREIGN[:30]), (0, PROMPT))
    model.truncate(1, 0)
    assert np.array_equal(steps(model, 0, TEXT), alone)


def test_other_threads_in_the_middle_of_a_text_change_no_bit(model, alone):
    feed(model, (0, PROMPT))
    model.set_threads(2)
    try:
        assert np.array_equal(step(model, 0, TEXT), alone)
    finally:
        model.set_threads(1)


def test_a_forced_compaction_keeps_the_bits(model, alone, monkeypatch):
    compactions = note_compactions(monkeypatch)
    feed(model, (1, FOREIGN[:50]), (0, PROMPT), (2, FOREIGN[50:80]))
    rows = []
    for index, token_id in enumerate(TEXT):
        # A neighbour that comes and goes leaves garbage above and below until no cell is left.
        feed(model, (3, FOREIGN[:40]))
        rows.append(step(model, 0, [token_id]))
        model.truncate(3, 0)
        if index == 5:
            model.truncate(1, 7)
    assert len(compactions) >= 2
    assert np.array_equal(np.concatenate(rows), alone)
    assert (model.length(1), model.length(2)) == (7, 30)
    # The neighbours came through as well.
    survivor = step(model, 1, FOREIGN[7:12])
    model.truncate(1, 0)
    assert np.array_equal(survivor, step(model, 1, FOREIGN[:12])[7:])


def test_a_full_cache_is_told_and_the_engine_stays_usable(model, alone):
    feed(model, (0, PROMPT), (1, [5] * 256), (2, [6] * 200))
    assert model.free_cells() == NUM_CELLS - 496
    saved = model.save(0)
    with pytest.raises(CacheFullError):
        model.restore(3, saved, 1)
    with pytest.raises(CacheFullError, match=f"17 cells wanted, 16 of {NUM_CELLS} free"):
        model.forward([Span(3, 0, FOREIGN[:17], 1)])
    assert [model.length(i) for i in range(4)] == [40, 256, 200, 0]
    # The last cells can be used, and after some were freed the text goes on.
    assert np.array_equal(steps(model, 0, TEXT[:16]), alone[:16])
    with pytest.raises(CacheFullError):
        model.forward([Span(0, 56, TEXT[16:17], 1)])
    model.truncate(1, 100)
    assert np.array_equal(steps(model, 0, TEXT[16:]), alone[16:])
    model.truncate(1, 0)
    model.restore(3, saved, len(PROMPT))
    assert np.array_equal(steps(model, 3, TEXT), alone)


def test_a_copied_prefix_goes_on_with_the_same_bits(model, alone):
    feed(model, (1, FOREIGN[:10]), (2, PROMPT + FOREIGN[:20]))
    model.copy_prefix(2, 0, len(PROMPT))
    assert (model.length(0), model.length(2)) == (40, 60)
    rows = [step(model, 0, TEXT[:8])]
    # Each goes on without the other: the source ahead, cut back, gone.
    ahead = step(model, 2, FOREIGN[20:24])
    model.truncate(2, 20)
    rows.append(step(model, 0, TEXT[8:16]))
    model.truncate(2, 0)
    rows.append(step(model, 0, TEXT[16:]))
    assert np.array_equal(np.concatenate(rows), alone)
    model.truncate(0, 0)
    assert np.array_equal(ahead, step(model, 0, PROMPT + FOREIGN[:24])[60:])


def test_a_due_compaction_keeps_the_bits_and_gives_sharers_cells_of_their_own(
    model, alone, monkeypatch
):
    feed(model, (1, FOREIGN[:10]), (2, PROMPT))
    model.copy_prefix(2, 0, len(PROMPT))
    rows = [steps(model, 0, TEXT[:8])]
    assert model.free_cells() == NUM_CELLS - (10 + 40 + 8)
    with monkeypatch.context() as patch:
        patch.setattr(CellLog, "should_compact", lambda _log: True)
        rows.append(steps(model, 0, TEXT[8:9]))
    assert model.free_cells() == NUM_CELLS - (10 + 40 + 49)
    model.truncate(2, 0)
    rows.append(steps(model, 0, TEXT[9:]))
    assert np.array_equal(np.concatenate(rows), alone)


@pytest.mark.parametrize("cut", [20, len(PROMPT)])
def test_a_saved_prefix_goes_on_with_the_same_bits(model, alone, cut):
    # Saved from cells between those of neighbours, shared ones, behind rejected guesses.
    feed(model, (1, FOREIGN[:10]), (0, PROMPT[:15]))
    step(model, 0, FOREIGN[:3])
    model.truncate(0, 15)
    model.forward([Span(1, 10, FOREIGN[10:14]), Span(0, 15, PROMPT[15:])])
    model.copy_prefix(0, 2, 30)
    steps(model, 0, TEXT[:4])
    saved = model.save(0)
    assert saved.length == len(PROMPT) + 4
    model.truncate(0, 0)
    feed(model, (1, FOREIGN[14:20]))
    model.restore(0, saved, cut)
    assert model.length(0) == cut
    rows = []
    if cut < len(PROMPT):
        feed(model, (0, PROMPT[cut:]))
    rows.append(step(model, 0, TEXT[:8]))
    model.truncate(2, 0)
    feed(model, (2, FOREIGN[:30]))
    rows.append(steps(model, 0, TEXT[8:16]))
    model.truncate(1, 0)
    rows.append(step(model, 0, TEXT[16:]))
    assert np.array_equal(np.concatenate(rows), alone)


def test_a_prefix_is_restored_into_a_cache_full_of_garbage(model, alone, monkeypatch):
    compactions = note_compactions(monkeypatch)
    feed(model, (0, PROMPT))
    saved = model.save(0)
    model.truncate(0, 0)
    # Garbage up to the last cells, with a neighbour that lives in the middle of it.
    feed(model, (1, FOREIGN), (2, FOREIGN[:90]), (3, FOREIGN))
    model.truncate(1, 0)
    model.restore(0, saved, len(PROMPT))
    assert len(compactions) == 1
    assert np.array_equal(steps(model, 0, TEXT), alone)
    model.truncate(0, 0)
    survivor = step(model, 2, FOREIGN[90:95])
    model.truncate(2, 0)
    assert np.array_equal(survivor, step(model, 2, FOREIGN[:95])[90:])


def test_shared_cells_that_were_given_up_are_not_taken_for_free(model):
    feed(model, (0, FOREIGN[:50]), (1, FOREIGN[:200]))
    model.copy_prefix(1, 2, 200)
    assert model.free_cells() == NUM_CELLS - 250
    model.truncate(1, 0)
    model.truncate(2, 0)
    # 462 cells are free only after a compaction, which must happen by itself.
    assert model.free_cells() == NUM_CELLS - 50
    feed(model, (3, [7] * 256), (0, [8] * 206))
    assert model.free_cells() == 0
