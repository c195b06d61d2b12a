"""How often a key may ask."""

from __future__ import annotations

import contextlib

import pytest

from airdraft.nodes.gateway.apikeys import ANYBODY, ApiKey
from airdraft.nodes.gateway.errors import ApiError
from airdraft.nodes.gateway.request_rate import RequestRate

ALICE, MALLORY = (ApiKey(name=name, sha256="0" * 64) for name in ("alice", "mallory"))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def num_taken(rate: RequestRate, key: ApiKey, num_bytes: int = 0) -> int:
    """How many of a thousand requests are accepted at this moment."""
    number = 0
    with contextlib.suppress(ApiError):
        while number < 1000:
            rate.take(key)
            rate.take_body(key, num_bytes)
            number += 1
    return number


def test_who_sends_too_many_may_try_again_after_a_moment() -> None:
    rate = RequestRate(1, Clock())
    assert num_taken(rate, ALICE) == 4
    with pytest.raises(ApiError, match="may send 1 requests a second") as caught:
        rate.take(ALICE)
    assert (caught.value.status, caught.value.retry_after_s) == (429, 1)


def test_a_key_has_a_burst_and_then_its_rate_and_no_other_key_notices() -> None:
    clock = Clock()
    rate = RequestRate(10, clock)
    assert num_taken(rate, MALLORY) == 40
    clock.now = 1.0
    assert num_taken(rate, MALLORY) == 10
    assert num_taken(rate, ALICE) == 40


def test_large_bodies_count_as_several() -> None:
    assert num_taken(RequestRate(10, Clock()), ALICE, 7 * 65_536) == 5


def test_where_no_key_is_needed_there_is_no_rate() -> None:
    assert num_taken(RequestRate(10, Clock()), ANYBODY) == 1000


@pytest.mark.parametrize("num_bytes", [0, 1])
def test_each_byte_of_a_body_counts_beside_its_request(num_bytes: int) -> None:
    rate = RequestRate(1, Clock())
    assert num_taken(rate, ALICE, num_bytes) == 4 - num_bytes
