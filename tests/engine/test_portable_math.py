"""The arithmetic of law 1 is what is written, bit for bit, and close to the true functions."""

import decimal
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.engine import portable_math
from tests.engine.plain_law1 import plain_log

MOST_STEPS = 41 << 20
positive = st.floats(min_value=2.0**-1022, allow_infinity=False)
around_one = st.floats(0.5, 2.0) | st.integers(-(2**20), 2**20).map(lambda n: 1.0 + n * 2.0**-53)


@given(st.lists(positive | around_one, min_size=1, max_size=40))
def test_the_logarithm_is_that_of_the_written_steps(values):
    assert portable_math.log(values).tolist() == [plain_log(x) for x in values]


@given(positive | around_one)
def test_the_logarithm_is_within_1e_15_of_its_size(x):
    with decimal.localcontext(prec=50):
        true = decimal.Decimal(x).ln()
        off = abs(decimal.Decimal(float(portable_math.log(x))) - true)
        assert off <= abs(true) * decimal.Decimal("1e-15")


@pytest.mark.parametrize("step_bits", [10, 20])
def test_powers_come_from_the_nearest_integers_to_the_true_ones(step_bits):
    """All entries of both tables: steps that are one digit only, and the other factor is 2^30."""
    digits = np.arange(1024)
    powers = portable_math.power_of_half(digits << (20 - step_bits))
    with decimal.localcontext(prec=60):
        for digit, power in zip(digits.tolist(), powers.tolist(), strict=True):
            true = decimal.Decimal(2) ** (30 - decimal.Decimal(digit) / 2**step_bits)
            assert power == int(true.to_integral_value()) << 10


@given(st.lists(st.integers(0, MOST_STEPS), min_size=1, max_size=40))
def test_powers_are_near_the_true_ones_and_never_grow_with_the_steps(steps):
    powers = portable_math.power_of_half(np.array(sorted(steps), dtype=np.int64)).tolist()
    for step, power in zip(sorted(steps), powers, strict=True):
        true = 2.0**40 * math.exp(-step / 2**20 * math.log(2))
        # Within 2e-9, rounded down, and the reference has errors of its own.
        assert abs(power - true) <= 3e-9 * true + 1.0
    assert powers == sorted(powers, reverse=True)


def test_powers_at_the_ends():
    ends = np.array([0, 1 << 20, 40 << 20, (40 << 20) + 1, MOST_STEPS])
    kept = ends.copy()
    assert portable_math.power_of_half(ends).tolist() == [2**40, 2**39, 1, 0, 0]
    assert ends.tolist() == kept.tolist()
