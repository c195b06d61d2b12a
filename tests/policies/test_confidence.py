"""Calibration against shares of accepted guesses, and what a draft's file may say of it."""

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.distill.training.bins import binned, calibration_json
from policies.acceptance import Calibration, DraftCalibration


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
    other = replace(found, rates=(0.5,) * len(found.rates))
    read = DraftCalibration.from_json(calibration_json(found, other))
    for confidence in (0.08, 0.25, 0.45, 0.65, 0.85):
        assert read.of(0.0).chance(confidence) == pytest.approx(confidence**2, abs=0.05)
        assert read.of(0.8).chance(confidence) == 0.5


GOOD = {
    "edges": [0.5],
    "greedy": [0.1, 0.9],
    "sampled": [0.1, 0.8],
}


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
