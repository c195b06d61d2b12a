"""What passes of a target take, and what texts that wait to be read add to them."""

from __future__ import annotations

import pytest

from nodes.scheduler.target import TargetCosts
from nodes.stream import PROMPT_PIECE_TOKENS
from policies.latency import CostTable, NodeCosts

# A millisecond a token.
COSTS = NodeCosts(CostTable((1, 256), (0.001, 0.256)), CostTable((32,), (0.04,)))
LENGTH = 200


def prompts_s(costs: TargetCosts, *lengths: int, is_in_pieces: bool = False) -> float:
    return costs.prompts_s(lengths, 8, is_in_pieces=is_in_pieces)


def read(costs: TargetCosts, num_tokens: int, times: int = 1) -> None:
    for _ in range(times):
        costs.prompt_read(num_tokens, LENGTH, 8, 0.0)


def test_of_texts_that_may_be_new_a_piece_goes_into_each_pass() -> None:
    costs = TargetCosts(COSTS)
    assert prompts_s(costs) == 0.0
    assert prompts_s(costs, LENGTH) == pytest.approx(PROMPT_PIECE_TOKENS / 1000)
    assert prompts_s(costs, LENGTH, LENGTH) == pytest.approx(PROMPT_PIECE_TOKENS / 1000)
    assert prompts_s(costs, 5) == pytest.approx(0.005)


def test_of_texts_that_the_target_remembers_next_to_nothing_is_read() -> None:
    costs = TargetCosts(COSTS)
    read(costs, 1, times=9)
    assert prompts_s(costs, LENGTH) == pytest.approx(0.001)
    assert prompts_s(costs, *(LENGTH,) * 7) == pytest.approx(0.007)
    # A new one among them tells nothing of the next; that it is being read is told by its pieces.
    read(costs, LENGTH, times=4)
    assert prompts_s(costs, LENGTH) == pytest.approx(0.001)
    assert prompts_s(costs, LENGTH, is_in_pieces=True) == pytest.approx(PROMPT_PIECE_TOKENS / 1000)
    read(costs, LENGTH)
    assert prompts_s(costs, LENGTH) == pytest.approx(PROMPT_PIECE_TOKENS / 1000)
