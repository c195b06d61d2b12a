"""What guesses earn, against its definition; and how fast an estimate learns and forgets."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.acceptance import AcceptanceEstimate, expected_tokens


@given(st.floats(0, 1), st.integers(0, 20))
def test_expected_tokens_is_the_sum_of_the_chances_to_get_so_far(alpha, gamma):
    by_definition = sum(alpha**i for i in range(gamma + 1))
    assert expected_tokens(alpha, gamma) == pytest.approx(by_definition, rel=1e-9)


@pytest.mark.parametrize(
    ("alpha", "gamma", "tokens"),
    [(0.0, 5, 1.0), (1.0, 5, 6.0), (0.7, 0, 1.0), (0.5, 1, 1.5), (0.8, 4, 3.3616)],
)
def test_expected_tokens_of_plain_cases(alpha, gamma, tokens):
    assert expected_tokens(alpha, gamma) == pytest.approx(tokens)


def play(estimate, alpha, num_rounds, gamma=4, seed=0):
    generator = random.Random(seed)
    for _ in range(num_rounds):
        accepted = 0
        while accepted < gamma and generator.random() < alpha:
            accepted += 1
        estimate.observe(gamma, accepted)


@pytest.mark.parametrize("gamma", [1, 4, 8])
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.8, 0.95])
def test_an_estimate_comes_to_the_true_value_whatever_gamma(alpha, gamma):
    """Averaged over runs: a round that was accepted whole must not count as a failure."""
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
    assert estimate.alpha == pytest.approx(0.7)
    estimate.observe(4, 0)
    assert estimate.alpha < 0.7
    for _ in range(10):
        estimate.observe(4, 0)
    assert estimate.alpha < 0.3


def test_one_round_counts_its_guesses_up_to_the_first_mistake():
    estimate = AcceptanceEstimate(successes=10.0, failures=10.0, memory=0.5)
    estimate.observe(6, 2)
    assert (estimate.successes, estimate.failures) == (7.0, 6.0)
    estimate.observe(3, 3)
    assert (estimate.successes, estimate.failures) == (6.5, 3.0)


def test_rounds_without_guesses_tell_nothing():
    estimate = AcceptanceEstimate()
    estimate.observe(0, 0)
    assert estimate == AcceptanceEstimate()


@pytest.mark.parametrize(("accepted", "then"), [(0, 4), (4, 0)])
def test_no_number_of_equal_rounds_makes_an_estimate_certain(accepted, then):
    estimate = AcceptanceEstimate()
    for _ in range(5000):
        estimate.observe(4, accepted)
    before = estimate.alpha
    assert 0.0 < before < 1.0
    for _ in range(60):
        estimate.observe(4, then)
    assert abs(estimate.alpha - before) > 0.5
