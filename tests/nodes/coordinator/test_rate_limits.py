"""A peer that sends garbage or floods is ignored from then on; the others do not notice."""

from __future__ import annotations

import pytest

from nodes.coordinator.members.rate_limits import (
    BURST_JOINS,
    BURST_MESSAGES,
    JOINS_PER_S,
    MESSAGES_PER_S,
    RateLimits,
    cost_of,
)

GOOD, BAD = b"good", b"bad"


@pytest.fixture
def limits() -> RateLimits:
    return RateLimits()


def test_a_flood_is_cut_off_and_a_busy_node_is_not(limits: RateLimits) -> None:
    for number in range(int(BURST_MESSAGES) + 5_000):
        # Nine tenths of what is allowed, for seconds.
        assert limits.may_speak(GOOD, number / (0.9 * MESSAGES_PER_S))
    heard = sum(limits.may_speak(BAD, 0.0) for _ in range(3 * int(BURST_MESSAGES)))
    assert heard == BURST_MESSAGES
    assert (limits.is_banned(BAD), limits.is_banned(GOOD)) == (True, False)
    assert not limits.may_speak(BAD, 1e9)


def test_a_clock_that_goes_back_earns_nothing(limits: RateLimits) -> None:
    assert all(limits.may_speak(BAD, 5.0) for _ in range(int(BURST_MESSAGES)))
    assert not limits.may_speak(BAD, 4.0)


def test_clients_may_say_less_than_nodes_and_gateways_come_back_with_all_users(
    limits: RateLimits,
) -> None:
    heard = sum(limits.may_speak(BAD, 0.0, cost_of("client")) for _ in range(20_000))
    assert heard == BURST_MESSAGES / cost_of("client")
    assert all(limits.may_speak(GOOD, 0.0, cost_of("gateway")) for _ in range(40_000))
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
    while limits.may_speak(BAD, 0.0):
        pass
    for number in range(20_000):
        limits.joins.take(f"k{number}", 1.0, 0.0)
        limits.may_speak(b"%d" % number, 0.0)
        limits.offended(b"%d" % number)
    assert limits.joins.take("key", 1.0, 0.0)
    limits.offended(BAD)
    assert not limits.is_banned(BAD)
    assert limits.may_speak(BAD, 0.0)
