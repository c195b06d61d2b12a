"""No peer is sent more than a window ahead of what it has read."""

import random

from mesh.credits import Credits, Meter

PEER = b"p"


def opened():
    credits = Credits()
    credits.open(PEER)
    return credits


def num_taken(credits, size=0):
    """How many messages more may be sent to a peer, of a million that want to be."""
    return next((n for n in range(10**6) if not credits.take(PEER, size)), 10**6)


WINDOW = num_taken(opened())


def test_a_peer_that_stopped_reading_gets_a_window_and_no_more():
    credits = opened()
    assert 1000 < num_taken(credits) < 10**6
    credits.grant(PEER, 3)
    assert num_taken(credits) == 3
    # A member that is welcomed again has read no more, and a new membership begins anew.
    credits.open(PEER)
    assert not credits.take(PEER)
    credits.close(PEER)
    credits.open(PEER)
    assert credits.take(PEER)


def test_no_grant_is_worth_more_than_the_window():
    credits = opened()
    for grant in (2**62, 2**62):
        credits.grant(PEER, grant)
    assert num_taken(credits) == WINDOW


def test_a_peer_that_is_no_member_has_no_window():
    credits = Credits()
    credits.grant(PEER, 5)
    assert num_taken(credits) == 10**6
    for forget in (lambda: credits.close(PEER), lambda: credits.keep(())):
        credits.open(PEER)
        forget()
        assert len(credits) == 0


def test_a_peer_that_reads_is_never_out_of_credit():
    """However its reading lags behind within the window."""
    random_lag = random.Random(3)
    credits, meter = opened(), Meter()
    # A receiver does not grant each message by itself.
    num_together = next(n for n in range(1, WINDOW) if meter.read())
    unread = 0
    for _ in range(200_000):
        assert credits.take(PEER)
        unread += 1
        if unread > random_lag.randrange(WINDOW - num_together):
            for _ in range(unread):
                if granted := meter.read():
                    credits.grant(PEER, granted)
            unread = 0


def test_large_answers_that_nobody_reads_are_few():
    size = 500_000
    credits = opened()
    num = num_taken(credits, size)
    assert 1 < num < 100
    # What is no answer goes on, and what has been read counts no more.
    assert credits.take(PEER)
    credits.grant(PEER, 1)
    assert num_taken(credits, size) == 1
    credits.grant(PEER, 2**40)
    assert num_taken(credits, size) == num
    # One is sent however large it is.
    credits.close(PEER)
    credits.open(PEER)
    assert num_taken(credits, 2**30) == 1


def test_a_member_that_reads_large_answers_may_ask_for_ever():
    credits, meter = opened(), Meter()
    for size in (400_000, 3_000, 524_288, 70_000) * 2000:
        assert credits.take(PEER, size)
        if granted := meter.read(size):
            credits.grant(PEER, granted)
