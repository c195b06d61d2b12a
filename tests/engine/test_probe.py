"""Engines of one kind answer a probe alike, whatever they take in a pass; others do not."""

import numpy as np
import pytest

from nodes.engine.selftest import probe_digest
from nodes.engine.toy import ToyConfig, ToyModel


@pytest.mark.parametrize("max_batch_tokens", [1, 7, 31, 32, 256])
def test_the_answer_does_not_depend_on_how_many_tokens_go_into_a_pass(max_batch_tokens):
    model = ToyModel(ToyConfig(max_batch_tokens=max_batch_tokens))
    assert probe_digest(model, 5) == probe_digest(ToyModel(), 5)
    assert model.free_cells() == model.info.num_cells


def test_the_answer_depends_on_the_seed_and_on_the_model():
    answers = [
        probe_digest(ToyModel(), 5),
        probe_digest(ToyModel(), 6),
        probe_digest(ToyModel(), 2**63 - 1),
        probe_digest(ToyModel(ToyConfig(seed=1)), 5),
    ]
    assert len(set(answers)) == len(answers)


def test_the_last_bit_of_one_logit_changes_the_answer():
    class LastBit(ToyModel):
        def forward(self, spans):
            rows = super().forward(spans)
            rows[-1, 7] = np.nextafter(rows[-1, 7], np.float32(100))
            return rows

    assert probe_digest(LastBit(), 5) != probe_digest(ToyModel(), 5)


def test_the_answer_of_the_toy_is_what_it_was():
    """Nodes of different versions must agree on it."""
    assert (
        probe_digest(ToyModel(), 5)
        == "e2c974aaef4dbb248423e126ed322a088000a90db10684c88ab020b5b15c150c"
    )


def test_a_small_cache_is_enough():
    assert probe_digest(ToyModel(ToyConfig(num_cells=8)), 5)
