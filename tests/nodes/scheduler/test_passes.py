"""What a target needs for its prompts, by the costs of its passes."""

from __future__ import annotations

import pytest

from airdraft.nodes.messages import CommitEntry, CommitReply
from airdraft.nodes.scheduler import passes
from airdraft.nodes.scheduler.state import ObservedSpeed, TargetCosts
from airdraft.policies.plan import Link
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


def reply(*stream_ids: int, num_read: int = 0) -> CommitReply:
    """A pass that took as little as its target likes to say."""
    entries = tuple(CommitEntry(each, 1, 3, 1, 0, 0, "", b"a") for each in stream_ids)
    return CommitReply(1e-6, entries, (5,) * len(entries), num_read)


def test_the_speed_of_a_target_is_what_the_coordinator_sees_of_it() -> None:
    observed = ObservedSpeed()
    for number in range(100):
        observed.passed(reply(1), 0.01, number * 0.03)
    assert observed.num_passes == 99
    assert observed.ratio == pytest.approx(3.0)
    # A stall of a minute counts little, and what was idle or read prompts not at all.
    observed.passed(reply(1), 0.01, 60.0)
    assert observed.ratio < 4.0
    before = observed.ratio
    observed.passed(reply(2), 0.01, 90.0)
    observed.passed(reply(2, num_read=32), 0.01, 91.0)
    assert (observed.num_passes, observed.ratio) == (100, before)
