"""A peer that sends garbage or floods is ignored from then on; the others do not notice."""

from __future__ import annotations

import pytest

from airdraft.nodes.coordinator.members.rate_limits import (
    BURST_JOINS,
    BURST_MESSAGES,
    JOINS_PER_S,
    MESSAGES_PER_S,
    RateLimits,
    cost_of,
    work_of,
)
from airdraft.nodes.messages import CommitEntry, CommitReply, Score, TokenizeReply, TokenScores

GOOD, BAD = b"good", b"bad"


@pytest.fixture
def limits() -> RateLimits:
    return RateLimits()


def test_a_flood_is_cut_off_and_a_busy_node_is_not(limits: RateLimits) -> None:
    for number in range(int(BURST_MESSAGES) + 5_000):
        # Nine tenths of what is allowed, for seconds.
        assert limits.count_message(GOOD, number / (0.9 * MESSAGES_PER_S))
    heard = sum(limits.count_message(BAD, 0.0) for _ in range(3 * int(BURST_MESSAGES)))
    assert heard == BURST_MESSAGES
    assert (limits.is_banned(BAD), limits.is_banned(GOOD)) == (True, False)
    assert not limits.count_message(BAD, 1e9)


def test_a_clock_that_goes_back_earns_nothing(limits: RateLimits) -> None:
    assert all(limits.count_message(BAD, 5.0) for _ in range(int(BURST_MESSAGES)))
    assert not limits.count_message(BAD, 4.0)


def test_clients_may_say_less_than_nodes_and_gateways_come_back_with_all_users(
    limits: RateLimits,
) -> None:
    heard = sum(limits.count_message(BAD, 0.0, cost_of("client")) for _ in range(20_000))
    assert heard == BURST_MESSAGES / cost_of("client")
    assert all(limits.count_message(GOOD, 0.0, cost_of("gateway")) for _ in range(40_000))
    # A peer that has not told its role counts as a client.
    assert cost_of("") == cost_of("client") > cost_of("target") == cost_of("draft")


def test_nobody_joins_without_end(limits: RateLimits) -> None:
    def num_joins(who: str, now: float) -> int:
        return sum(limits.joins.take(who, 1.0, now) for _ in range(1000))

    assert num_joins("key", 0.0) == num_joins("other", 0.0) == BURST_JOINS
    # A second later a few more, and after a while a whole burst.
    assert (num_joins("key", 1.0), num_joins("key", 99.0)) == (JOINS_PER_S, BURST_JOINS)


def test_the_oldest_of_very_many_peers_are_forgotten(limits: RateLimits) -> None:
    while limits.joins.take("key", 1.0, 0.0):
        pass
    while limits.count_message(BAD, 0.0):
        pass
    for number in range(20_000):
        limits.joins.take(f"k{number}", 1.0, 0.0)
        limits.count_message(b"%d" % number, 0.0)
        limits.offended(b"%d" % number)
    assert limits.joins.take("key", 1.0, 0.0)
    limits.offended(BAD)
    assert not limits.is_banned(BAD)
    assert limits.count_message(BAD, 0.0)


def passed(num_streams: int, num_top: int) -> CommitReply:
    """A pass of a target: a token of each stream, with the scores of this and of some others."""
    score = Score(5, -1.0, b"a")
    scores = (TokenScores(score, (score,) * num_top),) if num_top else ()
    entry = CommitEntry(1, 1, 3, 1, 0, 0, "", b"a", scores)
    return CommitReply(0.05, (entry,) * num_streams, (5,) * num_streams)


def test_a_busy_target_may_say_all_that_it_has_to_say() -> None:
    for num_streams, num_top, passes_a_second in ((256, 0, 100), (256, 20, 20), (16, 20, 200)):
        work = passes_a_second * (1 + work_of(passed(num_streams, num_top)))
        assert work < MESSAGES_PER_S
    # 100 texts of a thousand tokens, or the longest text, in a second.
    assert 100 * work_of(TokenizeReply(1, "", (5,) * 1000)) < MESSAGES_PER_S / 10
    assert work_of(TokenizeReply(1, "", (5,) * 131_072)) < MESSAGES_PER_S / 10


def test_who_replies_at_length_without_being_asked_is_heard_less_often(limits: RateLimits) -> None:
    """The largest replies that pass the codec, as fast as the limit of messages lets them."""
    for reply in (passed(256, 20), TokenizeReply(1, "", (5,) * 131_072)):
        num_heard = sum(limits.work.take(type(reply), work_of(reply), 0.0) for _ in range(10_000))
        assert num_heard < BURST_MESSAGES / 30
