"""Who sends garbage or floods is not listened to any more; nobody else notices."""

from __future__ import annotations

from nodes.coordinator.members.rate_limits import (
    BURST_JOINS,
    BURST_MESSAGES,
    CLIENT_COST,
    JOINS_PER_S,
    MAX_OFFENCES,
    MESSAGES_PER_S,
    RateLimits,
    cost_of,
)

GOOD, BAD = b"good", b"bad"


def test_some_offences_are_borne_and_then_a_peer_is_ignored() -> None:
    limits = RateLimits()
    for _ in range(MAX_OFFENCES):
        assert limits.may_speak(BAD, 0.0)
        assert not limits.is_banned(BAD)
        limits.offended(BAD)
    assert limits.is_banned(BAD)
    assert not limits.may_speak(BAD, 1e9)
    assert limits.may_speak(GOOD, 0.0)
    assert (limits.num_banned, limits.num_ignored) == (1, 1)


def test_a_flood_is_cut_off_and_a_busy_node_is_not() -> None:
    limits = RateLimits()
    for number in range(int(BURST_MESSAGES) + 5_000):
        # Nine tenths of what is allowed, for seconds.
        assert limits.may_speak(GOOD, number / (0.9 * MESSAGES_PER_S))
    heard = sum(limits.may_speak(BAD, 0.0) for _ in range(3 * int(BURST_MESSAGES)))
    assert heard == BURST_MESSAGES
    assert limits.is_banned(BAD)
    assert not limits.is_banned(GOOD)


def test_a_clock_that_stands_still_or_goes_back_earns_nothing() -> None:
    limits = RateLimits()
    for _ in range(int(BURST_MESSAGES)):
        assert limits.may_speak(BAD, 5.0)
    assert not limits.may_speak(BAD, 4.0)


def test_nobody_joins_without_end() -> None:
    limits = RateLimits()
    assert sum(limits.may_join("key", 0.0) for _ in range(1000)) == BURST_JOINS
    assert limits.may_join("other", 0.0)
    # A second later a few more, and after a while a whole burst.
    assert sum(limits.may_join("key", 1.0) for _ in range(1000)) == JOINS_PER_S
    assert sum(limits.may_join("key", 99.0) for _ in range(1000)) == BURST_JOINS
    for number in range(20_000):
        limits.may_join(f"k{number}", 0.0)
    assert len(limits._joins) == 4_096


def test_clients_may_say_less_than_nodes() -> None:
    limits = RateLimits()
    heard = sum(limits.may_speak(BAD, 0.0, CLIENT_COST) for _ in range(20_000))
    assert heard == BURST_MESSAGES / CLIENT_COST


def test_peers_without_end_take_no_memory_without_end() -> None:
    limits = RateLimits()
    for number in range(20_000):
        limits.may_speak(b"%d" % number, 0.0)
    assert len(limits._records) == 4_096
    # Of one that is not known any more nothing is held against the next.
    limits.offended(b"0")
    assert not limits.is_banned(b"0")


def test_all_users_of_a_gateway_may_come_back_at_once() -> None:
    limits = RateLimits()
    assert all(limits.may_speak(GOOD, 0.0, cost_of("gateway")) for _ in range(40_000))
    # Who has not said what it is counts as a client.
    assert cost_of("") == cost_of("client") > cost_of("target") == cost_of("draft")
