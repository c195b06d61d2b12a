"""The llama.cpp engine on a real model: the same bits, whatever goes through it beside."""

import contextlib

import numpy as np
import pytest

from nodes.engine.cells import CellLog
from nodes.engine.sampling import Sampling, sample
from nodes.engine.selftest import run_self_test
from tests.engine.llama_texts import FOREIGN, PROMPT, TEXT, feed, step, steps

pytestmark = pytest.mark.model


def test_the_self_test_passes(model):
    assert run_self_test(model, prefix_lens=(24,)).failure == ""


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


def test_refilling_a_hole_would_change_the_bits(model, alone):
    """What the log of cells is for: with llama.cpp's own reuse of cells the test above fails."""
    feed(model, (1, FOREIGN[:30]), (0, PROMPT))
    cut = CellLog.truncate
    with pytest.MonkeyPatch.context() as patch:
        # As if the cells were the last ones, which may be taken again.
        patch.setattr(CellLog, "truncate", lambda *args: cut(*args) or True)
        model.truncate(1, 0)
    assert not np.array_equal(steps(model, 0, TEXT), alone)


def test_batch_threads_change_no_bit(model, alone):
    with contextlib.ExitStack() as stack:
        stack.callback(model.set_threads, 1)
        model.set_threads(2)
        feed(model, (0, PROMPT))
        assert np.array_equal(step(model, 0, TEXT), alone)


def test_sampling_the_engines_logits_is_repeatable(model):
    """What law 1 is for: a text does not depend on the guesses that were verified with it."""
    sampling = Sampling(temperature=0.9, top_k=40, top_p=0.95, seed=5)

    def generate(guesses):
        model.truncate(0, 0)
        row = step(model, 0, PROMPT)[-1]
        token_ids = []
        for index in range(12):
            token_ids.append(sample(row, sampling, len(PROMPT) + index))
            row = step(model, 0, [token_ids[-1], *FOREIGN[: guesses * (index % 2)]])[0]
            model.truncate(0, len(PROMPT) + index + 1)
        return token_ids

    assert generate(0) == generate(4)
