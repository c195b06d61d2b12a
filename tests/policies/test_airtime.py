"""Shares of a medium against any others."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from airdraft.policies.airtime import weighted_shares

# Zero, or a size between a nanosecond and half a year.
AIRTIMES = st.one_of(st.just(0.0), st.floats(1e-9, 1e7))
WEIGHTS = st.floats(1e-6, 1e6)


@given(st.lists(st.tuples(AIRTIMES, WEIGHTS, WEIGHTS), min_size=1, max_size=6))
def test_no_other_shares_cost_less(links):
    airtimes, weights, others = np.array(links).T
    used = airtimes > 0
    assume(used.any())

    def cost(shares):
        return np.sum(weights[used] * airtimes[used] / shares[used])

    shares = weighted_shares(airtimes, weights)
    assert np.all(shares >= 0.0)
    assert shares.sum() == pytest.approx(1.0)
    assert cost(shares) <= cost(others / others.sum()) * (1 + 1e-9)


def test_nothing_to_send_or_no_weight_needs_no_share():
    assert weighted_shares([4.0, 1.0, 9.0], [1.0, 0.0, 1.0]) == pytest.approx([0.4, 0.0, 0.6])
    assert weighted_shares([1.0, 2.0], [0.0, 0.0]).tolist() == [0.0, 0.0]
    assert weighted_shares([], []).size == 0
