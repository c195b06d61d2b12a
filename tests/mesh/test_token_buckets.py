"""A burst at once, and so much a second."""

from __future__ import annotations

from airdraft.mesh.token_buckets import TokenBuckets


def num_taken(buckets: TokenBuckets, who: str, now: float) -> int:
    return sum(buckets.take(who, 1.0, now) for _ in range(100))


def test_each_sender_has_a_bucket_of_its_own_that_fills_up_again() -> None:
    buckets = TokenBuckets(5.0, 2.0)
    assert (num_taken(buckets, "a", 0.0), num_taken(buckets, "b", 0.0)) == (5, 5)
    assert (num_taken(buckets, "a", 1.0), num_taken(buckets, "a", 99.0)) == (2, 5)


def test_what_is_too_much_takes_nothing_and_a_clock_that_goes_back_earns_nothing() -> None:
    buckets = TokenBuckets(5.0, 2.0)
    assert not buckets.take("a", 5.1, 10.0)
    assert buckets.take("a", 5.0, 10.0)
    assert not buckets.take("a", 0.1, 9.0)
