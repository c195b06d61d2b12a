"""What the figures of well-guessed prompts amount to, and where the prompts come from."""

from __future__ import annotations

from itertools import islice

import pytest

from bench.good_guesses import Found, _candidates
from bench.speed import Answer
from nodes.messages import StreamFigures


def answer(seconds: float, *, num_rounds: int = 0, num_accepted: int = 0) -> Answer:
    figures = StreamFigures(
        num_rounds=num_rounds,
        num_plain_steps=10 - num_rounds,
        num_draft_tokens=4 * num_rounds,
        num_accepted_tokens=num_accepted,
        draft_wire_bytes=0,
        target_wire_bytes=0,
        plain_reason="",
    )
    return Answer((1,) * 21, seconds, (figures,))


def test_each_prompt_is_a_pair_of_rates() -> None:
    found = Found(num_tried=5, acceptances=[0.95, 0.99])
    found.add(answer(2.0), answer(1.0, num_rounds=6, num_accepted=23))
    found.add(answer(2.0), answer(2.0, num_rounds=6, num_accepted=24))
    assert found.pairs == [(10.0, 20.0), (10.0, 10.0)]
    assert found.ratio.median == pytest.approx(1.5)
    assert found.num_equal == 2
    assert "| Q8_0 | 2 of 5 | 0.97 | 10.0 | 1.500 " in found.row("Q8_0")
    # Six rounds of ten, and 59 tokens of 67.
    assert "| 0.60 | 0.88 | 0.98 of 48 | 2 of 2 |" in found.row("Q8_0")


def test_prompts_come_once_each() -> None:
    prompts = list(islice(_candidates(), 200))
    assert len(prompts) > 40
    assert len(set(prompts)) == len(prompts)
