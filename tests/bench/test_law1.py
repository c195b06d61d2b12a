"""Law 1 on the real pair, the short form of `python -m bench law1`."""

import pytest

from bench.asking import Pair
from bench.harness.cases import make_prompts
from bench.law1 import run_law1


@pytest.mark.model
@pytest.mark.timeout(1800)
def test_the_real_pair_gives_the_tokens_of_a_plain_loop() -> None:
    # One prompt of some 650 tokens, past the length where attention changes its kernel.
    texts = make_prompts(8)[3:]
    found = run_law1(Pair(), texts, 16, gammas=[0, 3], stream_counts=[4], thread_counts=[1])
    assert found.faults == []
    guessing = [row for row in found.lines if row.startswith("| 4 | 1 | 3 |")]
    assert len(guessing) == 2, found.lines
    # A run in which nothing was guessed and nothing rejected would prove nothing.
    for row in guessing:
        num_texts, _, num_guesses, num_accepted = (int(c) for c in row.split("|")[5:9])
        assert num_texts == len(texts)
        assert 0 < num_accepted < num_guesses
