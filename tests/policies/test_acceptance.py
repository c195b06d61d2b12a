"""What guesses earn, against its definition; and how fast an estimate learns and forgets."""

import random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policies.acceptance import AcceptanceEstimate, expected_token_matrix, expected_tokens


@given(st.floats(0, 1), st.integers(0, 20))
@example(1.0, 5)
def test_expected_tokens_is_the_sum_of_the_chances_to_get_so_far(alpha, gamma):
    by_definition = sum(alpha**i for i in range(gamma + 1))
    assert expected_tokens(alpha, gamma) == pytest.approx(by_definition, rel=1e-9)


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=5, max_size=5), min_size=1, max_size=4),
)
def test_the_matrix_sums_the_chances_to_get_so_far_by_position(alphas):
    matrix = expected_token_matrix(np.array(alphas))
    assert matrix.shape == (len(alphas), 6)
    for row, chances in zip(matrix, alphas, strict=True):
        total = so_far = 1.0
        assert row[0] == 1.0
        for gamma, alpha in enumerate(chances, start=1):
            so_far *= alpha
            total += so_far
            assert row[gamma] == pytest.approx(total)


def play(estimate, alpha, num_chains, gamma=4, seed=0):
    """Chains of guesses, each up to its first wrong one."""
    generator = random.Random(seed)
    for _ in range(num_chains):
        right = 0
        while right < gamma and generator.random() < alpha:
            right += 1
        estimate.observe(min(gamma, right + 1), right)


@pytest.mark.parametrize("gamma", [1, 4, 8])
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.8, 0.95])
def test_an_estimate_comes_to_the_true_value_however_long_chains_are(alpha, gamma):
    """Averaged over runs: a chain that was right to its end must not count as a failure."""
    found = []
    for seed in range(40):
        estimate = AcceptanceEstimate()
        play(estimate, alpha, 200, gamma, seed)
        found.append(estimate.alpha)
    assert sum(found) / len(found) == pytest.approx(alpha, abs=0.04)


def test_an_estimate_follows_a_change():
    estimate = AcceptanceEstimate()
    play(estimate, 0.9, 300)
    high = estimate.alpha
    play(estimate, 0.2, 100)
    assert high > 0.8
    assert estimate.alpha < 0.35


def test_the_prior_is_a_hopeful_guess_and_gives_way():
    estimate = AcceptanceEstimate()
    assert 0.5 < estimate.alpha < 1.0
    for _ in range(10):
        estimate.observe(1, 0)
    assert estimate.alpha < 0.25


def test_what_compares_nothing_tells_nothing():
    estimate = AcceptanceEstimate()
    estimate.observe(0, 0)
    assert estimate == AcceptanceEstimate()


@pytest.mark.parametrize("right", [0, 4])
def test_no_number_of_equal_chains_makes_an_estimate_certain(right):
    estimate = AcceptanceEstimate()
    for _ in range(10_000):
        estimate.observe(4, right)
    assert 0.0 < estimate.alpha < 1.0
