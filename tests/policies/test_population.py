"""What streams that ended tell of how alike streams are."""

import random

import pytest

from policies.population import Population


def seen(spread, num_streams, num_tried=40, mean=0.7, seed=1):
    """A population whose acceptance has a beta distribution of strength `spread`; 0: all alike."""
    generator = random.Random(seed)
    found = Population()
    for _ in range(num_streams):
        a, b = spread * mean, spread * (1 - mean)
        alpha = generator.betavariate(a, b) if spread else mean
        found.ended(sum(generator.random() < alpha for _ in range(num_tried)), num_tried)
    return found


def test_before_streams_have_ended_a_little_is_taken_for_granted():
    assert Population().weight == 8.0
    assert seen(0, 1).weight == 8.0


def test_streams_that_are_alike_tell_much_of_the_next_one():
    assert seen(0, 60).weight > 12.0


@pytest.mark.parametrize("spread", [2.0, 5.0, 10.0])
def test_the_weight_is_the_strength_of_the_distribution_that_streams_come_from(spread):
    weights = [seen(spread, 60, seed=seed).weight for seed in range(40)]
    mean = sum(weights) / len(weights)
    assert 0.6 * spread < mean < 1.6 * spread


def test_streams_that_are_all_different_tell_little():
    found = Population()
    for number in range(40):
        found.ended(40 * (number % 2), 40)
    assert found.weight == 2.0


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_streams_that_are_all_right_or_all_wrong_are_alike(rate):
    found = Population()
    for _ in range(5):
        found.ended(40 * rate, 40)
    assert found.weight == 40.0


def test_a_stream_of_few_guesses_says_nothing():
    found = Population()
    for _ in range(20):
        found.ended(0, 3)
        found.ended(3, 3)
    assert found.weight == 8.0
