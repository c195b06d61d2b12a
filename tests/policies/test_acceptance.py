"""What guesses earn, against its definition; and how fast an estimate learns and forgets."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.acceptance import AcceptanceEstimate, expected_token_matrix, expected_tokens


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


def test_what_others_are_like_counts_until_something_is_seen_and_again_when_it_is_forgotten():
    others = AcceptanceEstimate()
    estimate = others.of_one(10.0)
    play(others, 0.9, 300)
    assert estimate.is_untried
    assert estimate.alpha == pytest.approx(others.alpha)
    assert estimate.kept == pytest.approx(others.kept)
    # 10 guesses of others at 0.9, of 10 of its own none is right.
    known = others.alpha
    for _ in range(10):
        estimate.observe(1, 0)
    seen = sum(0.97**age for age in range(10))
    assert estimate.alpha == pytest.approx(10 * known / (10 + seen))
    play(others, 0.2, 300)
    assert estimate.alpha < 0.2


def test_what_is_seen_of_a_stream_outweighs_what_others_are_like():
    others = AcceptanceEstimate(successes=9.0, failures=1.0)
    estimate = others.of_one(8.0)
    for _ in range(60):
        estimate.observe(4, 0, 4)
    assert estimate.alpha < 0.3
    stopping = others.of_one(8.0)
    for _ in range(60):
        stopping.observe(0, 0, 4)
    assert stopping.kept < 0.25 < others.kept


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
    same = expected_token_matrix(np.full((1, 5), alphas[0][0]))[0]
    assert same == pytest.approx([expected_tokens(alphas[0][0], gamma) for gamma in range(6)])


DECAY = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)


def play_positions(estimate, chances, num_rounds, seed=0):
    generator = random.Random(seed)
    for _ in range(num_rounds):
        accepted = 0
        while accepted < len(chances) and generator.random() < chances[accepted]:
            accepted += 1
        estimate.observe(len(chances), accepted)


def test_positions_are_not_told_apart_before_they_have_been_tried():
    estimate = AcceptanceEstimate()
    play_positions(estimate, DECAY, 20)
    assert estimate.alphas == ()
    # In 120 rounds of two guesses nothing is learnt of the third, and not much of the others.
    estimate = AcceptanceEstimate()
    play_positions(estimate, (0.95, 0.05), 120)
    alphas = estimate.alphas
    assert len(alphas) == 8
    assert alphas[2:] == pytest.approx([estimate.alpha] * 6)
    assert estimate.alpha < alphas[0] < 0.95
    assert 0.05 < alphas[1] < estimate.alpha


def test_positions_are_told_apart_after_hundreds_of_rounds():
    found = []
    for seed in range(20):
        estimate = AcceptanceEstimate()
        play_positions(estimate, DECAY, 3000, seed)
        found.append((estimate.alpha, *estimate.alphas[:6]))
    alpha, *means = np.mean(found, axis=0)
    assert means == sorted(means, reverse=True)
    for mean, true in zip(means, DECAY, strict=True):
        assert abs(mean - true) < 0.07
        assert abs(mean - true) < 0.5 * abs(alpha - true) + 0.02


def test_positions_all_alike_stay_alike():
    found = []
    for seed in range(20):
        estimate = AcceptanceEstimate()
        play_positions(estimate, (0.7,) * 6, 1500, seed)
        found.append(estimate.alphas[:6])
    assert np.mean(found, axis=0) == pytest.approx([0.7] * 6, abs=0.03)


def test_positions_follow_a_change_more_slowly_than_the_whole_does():
    estimate = AcceptanceEstimate()
    play_positions(estimate, (0.9, 0.9), 1000)
    play_positions(estimate, (0.2, 0.2), 150, seed=1)
    assert estimate.alpha < 0.35
    assert 0.4 < estimate.alphas[0] < 0.85
    play_positions(estimate, (0.2, 0.2), 2000, seed=2)
    assert estimate.alphas[0] < 0.3


def test_guesses_beyond_the_positions_that_are_told_apart_count_as_well():
    estimate = AcceptanceEstimate()
    for _ in range(100):
        estimate.observe(12, 12)
    assert len(estimate.alphas) == 8
    assert min(estimate.alphas) > 0.95
    assert not estimate.is_untried
    assert AcceptanceEstimate().is_untried


def test_rounds_without_guesses_are_counted_by_themselves_where_that_is_wanted():
    plain, apart = AcceptanceEstimate(), AcceptanceEstimate(counts_empty=True)
    assert apart.starts == 1.0
    for number in range(400):
        for estimate in (plain, apart):
            # One round in four has eight of sixteen guesses, the others none.
            made = 8 if number % 4 == 0 else 0
            estimate.observe(made, made, 16)
    assert apart.starts == pytest.approx(0.25, abs=0.05)
    assert apart.kept == pytest.approx(7 / 8, abs=0.03)
    assert plain.starts == plain.kept == pytest.approx(8 / 12, abs=0.05)
