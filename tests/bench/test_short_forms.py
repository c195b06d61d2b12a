"""Short forms on real models: `bench law1` and `kernels`."""

from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from airdraft.nodes.catalog import DEFAULT_TARGET, Catalog, default_cache_dir
from airdraft.nodes.config.sources import environment
from bench.asking import Pair
from bench.harness.cases import make_prompts
from bench.kernels import measure
from bench.law1 import run_law1


@pytest.mark.model
@pytest.mark.timeout(1800)
def test_the_real_pair_gives_the_tokens_of_a_plain_loop() -> None:
    # One prompt of some 650 tokens, past the length where attention changes its kernel.
    texts = make_prompts(8)[3:]
    found = run_law1(Pair(), texts, 16, gammas=[0, 3], streams=[4], threads=[1])
    assert found.faults == []
    guessing = [row for row in found.lines if row.startswith("| 4 | 1 | 3 |")]
    assert len(guessing) == 2, found.lines
    # A run in which nothing was guessed and nothing rejected would prove nothing.
    for row in guessing:
        num_texts, _, num_guesses, num_accepted = (int(c) for c in row.split("|")[5:9])
        assert num_texts == len(texts)
        assert 0 < num_accepted < num_guesses


_TEXT = Path(__file__).parents[2] / "LICENSE"
# It lives as long as this process, and so is no leak of the test that first needs it.
resource_tracker.ensure_running()
_CATALOG = Catalog(default_cache_dir(environment()))


@pytest.mark.slow
@pytest.mark.skipif(not _CATALOG.has(DEFAULT_TARGET), reason="the default model is not here")
def test_a_real_text_is_as_likely_and_logits_are_close() -> None:
    path = _CATALOG.path(DEFAULT_TARGET)
    # A single token predicts nothing.
    assert measure(path, 1, 16, 1)[1] is None
    _, found = measure(path, 1, 16, 500, [_TEXT])
    assert found is not None
    assert found.num_tokens == 499
    assert abs(found.difference) < max(1e-3, 3 * found.error)
    # Both round activations to 8 bits, and each is some 5e-3 away from exact arithmetic.
    assert found.divergence < 1e-2
    assert found.largest < 4
