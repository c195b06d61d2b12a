"""Whether a draft model is worth its memory, by the times of passes."""

from __future__ import annotations

import pytest

from airdraft.policies.savings import Savings

PLAIN_S = 0.03


def after(num_passes: int, *, tokens: float, steps_s: float, is_guessed: bool = True) -> Savings:
    savings = Savings()
    for _ in range(num_passes):
        savings.passed(0.035, steps_s, tokens, PLAIN_S, is_guessed=is_guessed)
    return savings


def test_the_share_is_that_of_the_time_without_the_draft() -> None:
    # Three tokens take 90 ms without the draft and 55 ms with it.
    savings = after(10_000, tokens=3.0, steps_s=0.02)
    assert savings.share == pytest.approx(35 / 90)
    assert savings.has_been_tried
    assert not savings.is_low


def test_a_draft_that_saves_too_little_is_low_only_after_a_trial() -> None:
    short, long = (after(count, tokens=1.0, steps_s=0.001) for count in (1000, 10_000))
    assert short.share < 0.0
    assert not short.is_low
    assert long.is_low


def test_a_draft_that_makes_no_guesses_saves_nothing() -> None:
    savings = after(10_000, tokens=1.0, steps_s=0.0, is_guessed=False)
    assert savings.share == 0.0
    assert savings.is_low


def test_old_passes_are_forgotten() -> None:
    savings = after(10_000, tokens=3.0, steps_s=0.02)
    for _ in range(20_000):
        savings.passed(PLAIN_S, 0.0, 1.0, PLAIN_S, is_guessed=False)
    assert savings.is_low
