"""What a target needs for its prompts, by the costs of its passes."""

from __future__ import annotations

import pytest

from nodes.scheduler import passes
from nodes.scheduler.passes import TargetCosts
from policies.plan import Link
from tests.nodes.scheduler.watched import TARGET_COSTS, make_scheduler


def test_a_text_is_read_in_large_passes_or_in_pieces_beside_other_streams() -> None:
    costs = TargetCosts(TARGET_COSTS)
    assert costs.reading_s(320, 0) == pytest.approx(10 * 0.1)
    # A pass of one token and of a piece of 32 takes 104 ms.
    assert costs.reading_s(320, 1) == pytest.approx(10 * 0.104)


def test_prompts_make_the_passes_of_others_longer() -> None:
    """Their share of the time is remembered for about ten seconds."""
    costs = TargetCosts(TARGET_COSTS)
    quiet_s = costs.expected_s(1, 0, 0.0, 0.0)
    assert quiet_s == pytest.approx(0.04)
    for number in range(100):
        costs.read_beside(32, 1, 0.0, number * 0.1)
    assert 0.3 < costs.prefill_share(10.0) < 0.6
    assert costs.expected_s(1, 0, 0.0, 10.0) > 1.4 * quiet_s
    assert costs.expected_s(1, 0, 0.0, 100.0) == pytest.approx(quiet_s, rel=0.01)


def test_a_text_has_to_be_sent_before_it_is_read() -> None:
    near, far = make_scheduler(token_bits=16), make_scheduler(token_bits=16)
    far.link = Link(rate_bps=160_000.0)
    more_s = passes.reading_s(far, 5_000) - passes.reading_s(near, 5_000)
    # The tokens alone take half a second.
    assert 0.5 < more_s < 0.6
