"""Nobody is sent more than a window ahead of what it has read."""

import random

from mesh.credits import (
    GRANT_MESSAGES,
    MAX_ANSWER_BYTES,
    WINDOW_MESSAGES,
    Credits,
    Meter,
)

PEER = b"p"


def test_a_peer_that_stopped_reading_gets_a_window_and_no_more():
    credits = Credits()
    credits.open(PEER)
    assert sum(credits.take(PEER) for _ in range(40_000)) == WINDOW_MESSAGES
    credits.grant(PEER, 3)
    assert [credits.take(PEER) for _ in range(4)] == [True, True, True, False]
    # A new membership begins anew.
    credits.open(PEER)
    assert credits.take(PEER)


def test_no_grant_is_worth_more_than_the_window():
    credits = Credits()
    credits.open(PEER)
    for grant in (2**62, 2**62):
        credits.grant(PEER, grant)
    assert sum(credits.take(PEER) for _ in range(40_000)) == WINDOW_MESSAGES


def test_who_is_no_member_has_no_window():
    credits = Credits()
    credits.grant(PEER, 5)
    assert all(credits.take(PEER) for _ in range(40_000))
    credits.open(PEER)
    credits.close(PEER)
    assert len(credits) == 0


def test_a_peer_that_reads_is_never_out_of_credit():
    """However its reading lags behind within the window."""
    random_lag = random.Random(3)
    credits, meter = Credits(), Meter()
    credits.open(PEER)
    unread = 0
    for _ in range(200_000):
        assert credits.take(PEER)
        unread += 1
        if unread > random_lag.randrange(WINDOW_MESSAGES - GRANT_MESSAGES):
            for _ in range(unread):
                if granted := meter.read():
                    credits.grant(PEER, granted)
            unread = 0


def test_who_has_left_is_forgotten():
    credits = Credits()
    credits.open(PEER)
    credits.keep(())
    assert len(credits) == 0


def test_large_answers_that_nobody_reads_are_few():
    credits = Credits()
    credits.open(PEER)
    size = MAX_ANSWER_BYTES // 5 + 1
    assert [credits.take(PEER, size) for _ in range(6)] == [True] * 4 + [False] * 2
    # What is no answer goes on, and what has been read counts no more.
    assert credits.take(PEER)
    credits.grant(PEER, 1)
    assert [credits.take(PEER, size) for _ in range(2)] == [True, False]
    credits.grant(PEER, 2**40)
    assert [credits.take(PEER, size) for _ in range(5)] == [True] * 4 + [False]
    # One is sent however large it is.
    credits.open(PEER)
    assert credits.take(PEER, MAX_ANSWER_BYTES + 1)


def test_who_reads_large_answers_may_ask_for_ever():
    credits, meter = Credits(), Meter()
    credits.open(PEER)
    for size in (400_000, 3_000, 524_288, 70_000) * 2000:
        assert credits.take(PEER, size)
        if granted := meter.read(size):
            credits.grant(PEER, granted)
