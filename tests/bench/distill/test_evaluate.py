"""Acceptance: a draft that is the target is always right, and passes are counted as in the mesh."""

import numpy as np
import pytest

from bench.distill.measuring.coupling import compare
from bench.distill.measuring.evaluate import (
    Guesses,
    acceptance,
    guess,
    guess_all,
    passes,
    stopped_passes,
)
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
        temperature=temperature,
        top_p=1.0,
        is_finished=False,
        prompt_ids=np.asarray(prompt, dtype=np.uint32),
        answer_ids=np.asarray(ids, dtype=np.uint32),
        best_ids=np.zeros((length, 0), dtype=np.uint32),
        best_logps=np.zeros((length, 0), dtype=np.float16),
    )


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_target_as_its_own_draft_is_always_accepted(temperature: float) -> None:
    result = guess(_toy(), _answer(1, temperature), _SEED)
    assert result.accepted.all()
    assert len(result.confidences) == 100


def test_acceptance_is_the_share_of_contexts_where_the_models_agree() -> None:
    answers = [_answer(index, 0.0) for index in range(8)]
    results = guess_all(_toy(0.6), answers, _SEED, silent)
    assert acceptance(results) == pytest.approx(0.6, abs=0.06)


def test_passes_end_with_the_targets_token() -> None:
    flags = np.array([1, 1, 0, 1, 1, 1, 0, 0, 1], dtype=bool)
    counts, num_passes, num_tokens = passes(flags, 2)
    # 1 1 (0) | 1 1 (1) | 0 | 0 | 1 and the end: the brackets are bonus tokens.
    assert (counts.tolist(), num_passes, num_tokens) == ([3, 2], 5, 9)


def test_stopped_passes_make_the_guesses_that_are_likely_enough() -> None:
    # Whatever the confidence below a half, one of five is accepted; above, all are.
    table = Calibration((0.5,), (0.2, 1.0), trust=1e9)
    flags = np.array([1, 1, 0, 1, 0, 1, 1, 1], dtype=bool)
    confidences = np.array([0.9, 0.9, 0.1, 0.9, 0.9, 0.1, 0.9, 0.1])
    guesses = [Guesses("chat", 0.0, flags, confidences)]
    calibration = DraftCalibration(table, table)
    # 1 1 | stop (0) | 1 0 (0) | stop (1) | 1 | stop (1): 5 guesses judged, 4 right, in 4 passes.
    found = stopped_passes(guesses, calibration, 0.3, gamma=4)
    assert (found.accepted, found.made, found.tokens) == (4 / 5, 5 / 4, 2.0)
    # Without a stop: 1 1 0 | 1 0 | 1 1 1.
    found = stopped_passes(guesses, calibration, 0.0, gamma=4)
    assert (found.accepted, found.made, found.tokens) == (6 / 8, 8 / 3, 8 / 3)


def test_shared_noise_lies_between_independent_draws_and_the_optimum() -> None:
    answers = [_answer(index, 1.0) for index in range(4)]
    (result,) = compare(_toy(), _toy(0.5), answers, [1.0], silent)
    assert result.num_positions == 400
    assert result.independent < result.coupled < result.rejection + 0.05
    (same,) = compare(_toy(), _toy(), answers, [1.0], silent)
    assert same.coupled == 1.0
    assert same.rejection == pytest.approx(1.0)
