"""No peer is sent more than a window ahead of what it has read."""

import random

import pytest

from airdraft.mesh.credits import MAX_ALL_BYTES, Credits, Meter

PEER = b"p"


def opened():
    credits = Credits()
    credits.open(PEER)
    return credits


def num_taken(credits, size=0, *, is_answer=False):
    """How many messages more may be sent to a peer, of a million that want to be."""
    takes = (credits.take(PEER, size, is_answer=is_answer) for _ in range(10**6))
    return next((n for n, is_taken in enumerate(takes) if not is_taken), 10**6)


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


@pytest.mark.parametrize("is_answer", [True, False])
def test_large_messages_that_nobody_reads_are_few(is_answer):
    size = 500_000
    credits = opened()
    num = num_taken(credits, size, is_answer=is_answer)
    # The texts of 64 requests are no answers that a member may ask for again and again.
    assert (1 if is_answer else 64) < num < 140
    # Others go on, and what has been read counts no more.
    assert credits.take(PEER)
    assert credits.take(PEER, size, is_answer=not is_answer)
    credits.grant(PEER, 1)
    assert num_taken(credits, size, is_answer=is_answer) == 1
    credits.grant(PEER, 2**40)
    assert num_taken(credits, size, is_answer=is_answer) == num
    # One is sent however large it is.
    credits.close(PEER)
    credits.open(PEER)
    assert num_taken(credits, 2**30, is_answer=is_answer) == 1


def test_a_member_that_reads_large_answers_may_ask_for_ever():
    credits, meter = opened(), Meter()
    for size in (400_000, 3_000, 524_288, 70_000) * 2000:
        assert credits.take(PEER, size, is_answer=True)
        if granted := meter.read(size):
            credits.grant(PEER, granted)


def test_when_all_are_too_far_behind_the_furthest_gets_no_more():
    credits = Credits()
    readers, deaf = (
        [b"%d" % number for number in range(3)],
        [b"x%d" % number for number in range(9)],
    )
    for peer in (*readers, *deaf):
        credits.open(peer)
    num_sent, refused = 0, set()
    while len(refused) < 5:
        for peer in deaf:
            if peer not in refused and not credits.take(peer, 1 << 20):
                # As the coordinator does with a peer that does not read.
                credits.close(peer)
                refused.add(peer)
        for peer in readers:
            assert credits.take(peer, 1 << 20)
            credits.grant(peer, 1)
        num_sent += 1
        assert num_sent < 1000
    # What the others have not read counts, and nothing of those that are gone.
    assert (9 - 5) * (num_sent - 1) << 20 <= MAX_ALL_BYTES


def test_what_was_read_of_any_size_counts_no_longer():
    credits = Credits()
    for peer in (b"a", b"b"):
        credits.open(peer)
    for _ in range(3):
        for peer in (b"a", b"b"):
            for size in (10, 2000, 1 << 20):
                assert credits.take(peer, size)
            assert credits.take(peer, 100, is_answer=True)
        credits.grant(b"a", 3)
        credits.grant(b"b", 4)
    for _ in range(MAX_ALL_BYTES >> 19):
        assert credits.take(b"b", 1 << 20)
        credits.grant(b"b", 1)
