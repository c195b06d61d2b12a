"""How much of its vocabulary a draft node guesses from."""

from __future__ import annotations

from random import Random

import pytest

from nodes.draft.output_limit import OutputLimit
from nodes.draft.state import DraftState
from nodes.engine.toy import ToyConfig, ToyModel
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.draft.script import ONE

NUM_VOCAB = 160_000


def limits_of(token_ids: list[int]) -> list[int]:
    """What is set, token by token; the whole vocabulary at first."""
    limits = [NUM_VOCAB]
    limit = OutputLimit(NUM_VOCAB, limits.append)
    for token_id in token_ids:
        limit.committed((token_id,))
    return limits


@pytest.mark.parametrize("highest", [20_000, 70_000])
def test_what_hardly_occurs_is_left_out(highest: int) -> None:
    random = Random(1)
    limits = limits_of([random.randrange(highest) for _ in range(3000)])
    assert limits == sorted(limits, reverse=True)
    assert limits[-1] == highest


def test_one_token_of_a_hundred_may_be_missed_but_not_one_of_twenty() -> None:
    for every, limit in ((100, 10_000), (20, NUM_VOCAB)):
        token_ids = [159_000 if k % every == 0 else 5 for k in range(1, 5001)]
        assert limits_of(token_ids)[-1] == limit


def test_a_text_of_another_language_has_its_tokens_after_some_fifty() -> None:
    assert limits_of([5] * 3000)[-1] == 10_000
    assert limits_of([5] * 3000 + [110_000] * 50)[-1] == 120_000


def test_a_few_tokens_decide_little() -> None:
    assert limits_of([5] * 10)[-1] > 0.9 * NUM_VOCAB


def test_it_learns_from_committed_tokens_whether_they_were_guessed_or_not() -> None:
    limits = list[int]()
    num_vocab = ToyConfig().num_vocab
    state = DraftState(ToyModel(ToyConfig()), limit=OutputLimit(num_vocab, limits.append))
    state.open(make_spec())
    state.committed(ONE, 1, len(PROMPT), (3,) * 200)
    assert 3 < limits[-1] < num_vocab
