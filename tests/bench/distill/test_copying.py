"""Prompt lookup on answers that copy, pass by pass."""

from pathlib import Path

import numpy as np
import pytest

from bench.distill.measuring.copying import play
from bench.distill.sampling.answers import Answer
from bench.distill.sampling.prompts import COPYING, HELD_OUT, HeldOutPrompts


def _answer(prompt: list[int], answer: list[int]) -> Answer:
    return Answer(
        index=0,
        kind="edit",
        temperature=0.0,
        top_p=1.0,
        is_finished=True,
        prompt_ids=np.asarray(prompt, dtype=np.uint32),
        answer_ids=np.asarray(answer, dtype=np.uint32),
        best_ids=np.zeros((len(answer), 0), dtype=np.uint32),
        best_logps=np.zeros((len(answer), 0), dtype=np.float16),
    )


def test_a_copy_is_guessed_and_a_new_text_is_not() -> None:
    passage = list(range(100, 160))
    copied = play([_answer([*passage, 1, 2], passage)] * 3, 0.5)
    assert copied.acceptance > 0.9
    assert copied.tokens_a_pass > 4
    assert copied.num_tokens == 3 * len(passage)
    fresh = play([_answer([*passage, 1, 2], list(range(500, 560)))], 0.5)
    assert (fresh.num_guesses, fresh.num_passes, fresh.tokens_a_pass) == (0, 60, 1.0)


def test_every_guess_is_judged_once() -> None:
    """Without a stop all guesses are made: 8 of them after 1 2, of which 3 come true."""
    prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 1, 2]
    found = play([_answer(prompt, [3, 4, 5, 99])], 0.0)
    assert (found.num_guesses, found.num_accepted, found.num_passes) == (8, 3, 1)
    assert found.num_tokens == 4


@pytest.mark.parametrize(("name", "count"), [(COPYING, 50), (HELD_OUT, 200)])
def test_prompts_are_all_there_and_all_different(name: str, count: int) -> None:
    texts = HeldOutPrompts(name=name).texts()
    assert len(texts) == len(set(texts)) == count
    other = {HELD_OUT: COPYING, COPYING: HELD_OUT}[name]
    assert not set(texts) & set(HeldOutPrompts(name=other).texts())
    path = Path("bench/distill/sampling") / name
    assert all(len(line.split("\t")) == 2 for line in path.read_text().splitlines())
