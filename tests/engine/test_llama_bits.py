"""The llama.cpp engine on a real model: the same bits, whatever goes through it beside."""

import contextlib

import numpy as np
import pytest

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


def test_batch_threads_change_no_bit(model, alone):
    with contextlib.ExitStack() as stack:
        stack.callback(model.set_threads, 1)
        model.set_threads(2)
        feed(model, (0, PROMPT))
        assert np.array_equal(step(model, 0, TEXT), alone)
