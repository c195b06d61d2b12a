"""What guesses earn, how fast an estimate learns and forgets, and what a confidence is worth."""

import json
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airdraft.policies.acceptance import (
    AcceptanceEstimate,
    Calibration,
    DraftCalibration,
    expected_tokens,
)
from bench.distill.training.bins import binned, calibration_json


@given(st.floats(0, 1), st.integers(0, 20))
@example(1.0, 5)
def test_expected_tokens_is_the_sum_of_the_chances_to_get_so_far(alpha, gamma):
    by_definition = sum(alpha**i for i in range(gamma + 1))
    assert expected_tokens(alpha, gamma) == pytest.approx(by_definition, rel=1e-9)


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
def test_an_estimate_changes_even_after_any_number_of_equal_chains(right):
    estimate = AcceptanceEstimate()
    for _ in range(100_000):
        estimate.observe(4, right)
    assert estimate.alpha == pytest.approx(right / 4)
    for _ in range(200):
        estimate.observe(4, 4 - right)
    assert estimate.alpha == pytest.approx(1 - right / 4, abs=0.01)


@pytest.mark.parametrize(
    ("confidence", "chance"),
    [(-1.0, 0.1), (0.49, 0.1), (0.5, 0.6), (0.89, 0.6), (0.9, 0.9), (2, 0.9)],
)
def test_a_chance_is_that_of_the_confidences_bin(confidence, chance):
    assert Calibration((0.5, 0.9), (0.1, 0.6, 0.9)).chance(confidence) == chance


def test_what_is_seen_takes_the_place_of_what_was_shipped():
    calibration = Calibration((0.5,), (0.5, 0.5))
    source = random.Random(3)
    for _ in range(3000):
        calibration.observe(0.7, accepted=source.random() < 0.9)
    assert calibration.chance(0.7) == pytest.approx(0.83, abs=0.06)
    # The other bin has seen nothing.
    assert calibration.chance(0.3) == 0.5
    for _ in range(3000):
        calibration.observe(0.7, accepted=source.random() < 0.2)
    assert calibration.chance(0.7) == pytest.approx(0.25, abs=0.08)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=60), st.floats(0, 1))
def test_a_chance_is_always_a_chance(seen, confidence):
    calibration = Calibration((0.2, 0.8), (0.0, 0.5, 1.0), trust=1.0)
    for value, accepted in seen:
        calibration.observe(value, accepted=accepted)
    assert 0.0 <= calibration.chance(confidence) <= 1.0


def test_what_is_measured_comes_back_from_a_file():
    source = random.Random(1)
    confidences = [source.random() for _ in range(20_000)]
    accepted = [source.random() < c * c for c in confidences]
    found = binned(confidences, accepted)
    read = DraftCalibration.from_json(calibration_json(found, [0.5] * len(found)))
    for confidence in (0.08, 0.25, 0.45, 0.65, 0.85):
        assert read.of(0.0).chance(confidence) == pytest.approx(confidence**2, abs=0.05)
        assert read.of(0.8).chance(confidence) == 0.5


GOOD = {"edges": [0.5], "greedy": [0.1, 0.9], "sampled": [0.1, 0.8]}


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "7", "null", '{"edges": [1]}', "[" * 5000),
        {"edges": []},
        {"edges": [0.5, 0.5], "greedy": [0.1] * 3, "sampled": [0.1] * 3},
        {"edges": [float("nan")]},
        {"edges": "0.5"},
        {"greedy": [0.1, 1.1]},
        {"sampled": [0.1]},
        {"sampled": {"0": 1}},
        {"greedy": [0.1, 10**400]},
        {"edges": list(range(99)), "greedy": [0.1] * 100, "sampled": [0.1] * 100},
    ],
)
def test_a_file_that_no_measurement_gives_is_refused(content):
    DraftCalibration.from_json(json.dumps(GOOD))
    text = content if isinstance(content, str) else json.dumps(GOOD | content)
    with pytest.raises(ValueError, match=r"."):
        DraftCalibration.from_json(text)
