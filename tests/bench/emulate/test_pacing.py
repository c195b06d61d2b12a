"""A token bucket: averages are kept to, a frame may go ahead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.emulate.pacing import DEPTH_BYTES, Pacer

RATE_BPS = 8000.0  # a byte takes a millisecond


def test_a_small_message_goes_at_once_and_the_next_ones_pay_for_it():
    pacer = Pacer()
    assert pacer.send_at(700, RATE_BPS, 10.0) == 10.0
    assert pacer.send_at(700, RATE_BPS, 10.0) == 10.0
    assert pacer.send_at(700, RATE_BPS, 10.0) == pytest.approx(10.7)
    # Long after that, the bucket is full again and no fuller.
    assert pacer.send_at(1400, RATE_BPS, 99.0) == 99.0
    assert pacer.send_at(100, RATE_BPS, 99.0) == pytest.approx(99.1)


def test_a_large_message_waits_for_all_but_a_frame():
    assert Pacer().send_at(DEPTH_BYTES + 1000, RATE_BPS, 5.0) == pytest.approx(6.0)


sends = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 5000)), min_size=1, max_size=30)


@given(sends)
def test_what_leaves_is_never_more_than_the_rate_and_a_frame(wishes):
    pacer, ready = Pacer(), 0.0
    left = []
    for later, num_bytes in wishes:
        ready += later
        at = pacer.send_at(num_bytes, RATE_BPS, ready)
        assert at >= ready
        left.append((at, num_bytes))
    assert left == sorted(left, key=lambda sent: sent[0])
    for first in range(len(left)):
        for last in range(first, len(left)):
            # Of whole messages the first may have been earned before.
            between = sum(size for _, size in left[first + 1 : last + 1])
            earned = RATE_BPS / 8 * (left[last][0] - left[first][0])
            assert between <= earned + DEPTH_BYTES + 1e-6
