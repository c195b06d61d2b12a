"""When a step of a draft on the target's own cores is worth its time."""

from __future__ import annotations

import pytest

from airdraft.policies.latency import CostTable
from airdraft.policies.turns import Prices, Turn, net_of, repays, worthwhile

# Plain decoding of one stream: a pass of 10 s gives a token. More tokens take 1 s each.
PASS = CostTable((1, 101), (10.0, 110.0))


def prices(step_s: float = 2.0, more_s: float = 0.0) -> Prices:
    return Prices(0.1, PASS.at, lambda num_tokens: step_s + more_s * (num_tokens - 1))


@pytest.mark.parametrize(("gain", "is_made"), [(0.31, True), (0.29, False)])
def test_a_step_has_to_earn_what_its_time_and_that_of_a_longer_pass_earn(
    gain: float, is_made: bool
) -> None:
    """Two seconds of the step and one of the pass, at a tenth of a token a second."""
    assert worthwhile([Turn(gain, 1)], prices(), 1) == [0] * is_made


def test_streams_share_a_step_as_long_as_each_pays_for_itself() -> None:
    # Alone none pays, and the last one does not pay for its place in the pass.
    turns = [Turn(0.2, 1), Turn(0.09, 1), Turn(0.25, 1)]
    assert worthwhile(turns[:1], prices(), 3) == []
    assert worthwhile(turns, prices(), 3) == [2, 0]
    # Nor does one whose unread tokens take too long.
    assert worthwhile([turns[2], Turn(0.2, 50)], prices(1.0, 0.1), 3) == [0]


def test_guesses_are_counted_up_to_where_they_pay() -> None:
    # Each costs a second of the pass: 0.1 tokens.
    assert net_of([0.9, 0.5, 0.05], prices(), 1) == pytest.approx((1.2, 1.4))
    assert net_of([0.9, 0.5, 0.05], prices(), 1, steps_s=2.0) == pytest.approx((0.8, 1.4))
    assert net_of([], prices(), 1) == net_of([0.05], prices(), 1) == (0.0, 0.0)


def test_what_an_answer_gains_has_to_repay_what_it_costs() -> None:
    """Passes of two tokens gain half a one each."""
    assert repays(0.5, 2.0, num_output=300, tokens_left=1000, cost=100.0)
    assert not repays(0.5, 2.0, num_output=300, tokens_left=1000, cost=110.0)
    assert not repays(0.5, 2.0, num_output=300, tokens_left=100, cost=100.0)
    assert not repays(0.0, 1.0, num_output=300, tokens_left=1000, cost=0.0)
