"""Acceptance: a draft that is the target is always right, and passes are counted as in the mesh."""

import numpy as np
import pytest

from bench.distill.evaluate import Guesses, acceptance, compare_noise, guess_all, passes
from bench.distill.sampling.answers import Answer
from nodes.engine.protocol import Span
from nodes.engine.sampling import Sampling, sample
from nodes.engine.toy import ToyConfig, ToyModel
from policies.acceptance import Calibration, DraftCalibration
from tests.bench.distill.fakes import silent

_SEED = 2


def _toy(agreement: float = 1.0) -> ToyModel:
    return ToyModel(ToyConfig(agreement=agreement, seed=9))


def _answer(index: int, temperature: float, length: int = 100) -> Answer:
    model, prompt = _toy(), [3, 4, 5 + index]
    sampling = Sampling(temperature, seed=_SEED, choice=index)
    rows = model.forward([Span(0, 0, prompt, 1)])
    ids: list[int] = []
    for position in range(len(prompt), len(prompt) + length):
        ids.append(sample(rows[0], sampling, position))
        rows = model.forward([Span(0, position, ids[-1:], 1)])
    return Answer(
        index=index,
        kind="chat",
        seed=_SEED,
        temperature=temperature,
        top_p=1.0,
        prompt_ids=np.asarray(prompt, dtype=np.uint32),
        answer_ids=np.asarray(ids, dtype=np.uint32),
        best_ids=np.zeros((length, 0), dtype=np.uint32),
        best_logps=np.zeros((length, 0), dtype=np.float16),
    )


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_target_as_its_own_draft_is_always_accepted(temperature: float) -> None:
    (result,) = guess_all(_toy(), [_answer(1, temperature)], silent)
    assert result.accepted.all()
    assert len(result.confidences) == 100


def test_acceptance_is_the_share_of_contexts_where_the_models_agree() -> None:
    answers = [_answer(index, 0.0) for index in range(8)]
    results = guess_all(_toy(0.6), answers, silent)
    assert acceptance(results) == pytest.approx(0.6, abs=0.06)


def test_passes_end_with_the_targets_token_or_where_a_guess_is_unlikely() -> None:
    # Whatever the confidence below a half, one of five is accepted; above, all are.
    table = Calibration((0.5,), (0.2, 1.0), trust=1e9)
    calibration = DraftCalibration(table, table)
    flags = np.array([1, 1, 0, 1, 0, 1, 1, 1], dtype=bool)
    confidences = np.array([0.9, 0.9, 0.1, 0.9, 0.9, 0.1, 0.9, 0.1])
    guesses = [Guesses("chat", 0.0, flags, confidences)]
    # In brackets are tokens of the target: 1 1 (0) | 1 0 | 1 1 (1).
    found = passes(guesses, 2, calibration)
    assert (found.num, found.num_tokens) == (3, 8)
    assert (found.judged.tolist(), found.accepted.tolist()) == ([3, 3], [3, 2])
    # 1 1 0 | 1 0 | 1 1 1.
    found = passes(guesses, 4, calibration)
    assert (found.num, found.num_tokens) == (3, 8)
    assert (found.judged.tolist(), found.accepted.tolist()) == ([3, 3, 2, 0], [3, 2, 1, 0])
    # 1 1 stop (0) | 1 0 | stop (1) | 1 stop (1).
    found = passes(guesses, 4, calibration, stop=0.3)
    assert (found.num, found.num_tokens) == (4, 8)
    assert (found.judged.tolist(), found.accepted.tolist()) == ([3, 2, 0, 0], [3, 1, 0, 0])


def test_shared_noise_lies_between_independent_draws_and_the_optimum() -> None:
    answers = [_answer(index, 1.0) for index in range(4)]
    ((coupled, independent, rejection),) = compare_noise(_toy(), _toy(0.5), answers, [1.0], silent)
    assert independent < coupled < rejection + 0.05
    ((coupled, _, rejection),) = compare_noise(_toy(), _toy(), answers, [1.0], silent)
    assert coupled == 1.0
    assert rejection == pytest.approx(1.0)
