"""Who sends garbage or floods is not listened to any more; nobody else notices."""

from __future__ import annotations

from nodes.coordinator.members.conduct import (
    BURST_JOINS,
    BURST_MESSAGES,
    CLIENT_COST,
    JOINS_PER_S,
    MAX_OFFENCES,
    MESSAGES_PER_S,
    Conduct,
    cost_of,
)

GOOD, BAD = b"good", b"bad"


def test_some_offences_are_borne_and_then_a_peer_is_ignored() -> None:
    conduct = Conduct()
    for _ in range(MAX_OFFENCES):
        assert conduct.may_speak(BAD, 0.0)
        assert not conduct.is_banned(BAD)
        conduct.offended(BAD)
    assert conduct.is_banned(BAD)
    assert not conduct.may_speak(BAD, 1e9)
    assert conduct.may_speak(GOOD, 0.0)
    assert (conduct.num_banned, conduct.num_ignored) == (1, 1)


def test_a_flood_is_cut_off_and_a_busy_node_is_not() -> None:
    conduct = Conduct()
    for number in range(int(BURST_MESSAGES) + 5_000):
        # Nine tenths of what is allowed, for seconds.
        assert conduct.may_speak(GOOD, number / (0.9 * MESSAGES_PER_S))
    heard = sum(conduct.may_speak(BAD, 0.0) for _ in range(3 * int(BURST_MESSAGES)))
    assert heard == BURST_MESSAGES
    assert conduct.is_banned(BAD)
    assert not conduct.is_banned(GOOD)


def test_a_clock_that_stands_still_or_goes_back_earns_nothing() -> None:
    conduct = Conduct()
    for _ in range(int(BURST_MESSAGES)):
        assert conduct.may_speak(BAD, 5.0)
    assert not conduct.may_speak(BAD, 4.0)


def test_nobody_joins_without_end() -> None:
    conduct = Conduct()
    assert sum(conduct.may_join("key", 0.0) for _ in range(1000)) == BURST_JOINS
    assert conduct.may_join("other", 0.0)
    # A second later a few more, and after a while a whole burst.
    assert sum(conduct.may_join("key", 1.0) for _ in range(1000)) == JOINS_PER_S
    assert sum(conduct.may_join("key", 99.0) for _ in range(1000)) == BURST_JOINS
    for number in range(20_000):
        conduct.may_join(f"k{number}", 0.0)
    assert len(conduct._joins) == 4_096


def test_clients_may_say_less_than_nodes() -> None:
    conduct = Conduct()
    heard = sum(conduct.may_speak(BAD, 0.0, CLIENT_COST) for _ in range(20_000))
    assert heard == BURST_MESSAGES / CLIENT_COST


def test_peers_without_end_take_no_memory_without_end() -> None:
    conduct = Conduct()
    for number in range(20_000):
        conduct.may_speak(b"%d" % number, 0.0)
    assert len(conduct._records) == 4_096
    # Of one that is not known any more nothing is held against the next.
    conduct.offended(b"0")
    assert not conduct.is_banned(b"0")


def test_all_users_of_a_gateway_may_come_back_at_once() -> None:
    conduct = Conduct()
    assert all(conduct.may_speak(GOOD, 0.0, cost_of("gateway")) for _ in range(40_000))
    # Who has not said what it is counts as a client.
    assert cost_of("") == cost_of("client") > cost_of("target") == cost_of("draft")
