"""Law 1's shared noise beside the alternatives, on one pair and the same positions.

coupled: both models take the argmax with the same noise. independent: each draws for itself.
rejection: speculative sampling (Leviathan et al. 2023), which no scheme exceeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.distill.measuring.evaluate import answer_rows
from bench.distill.report import Progress
from bench.distill.sampling.answers import Answer
from nodes.engine.protocol import Logits, Model
from nodes.engine.sampling import Sampling, sample

_NUM_DRAWS = 2


@dataclass(frozen=True, slots=True)
class Coupling:
    """Shares of guesses accepted at a temperature, over the same positions."""

    temperature: float
    coupled: float
    independent: float
    rejection: float
    num_positions: int


def compare(
    target: Model,
    draft: Model,
    answers: Sequence[Answer],
    temperatures: Sequence[float],
    progress: Progress,
) -> list[Coupling]:
    """One row of figures a temperature; no top-p, as rejection sampling is stated without."""
    totals = np.zeros((len(temperatures), 3))
    count = 0
    for done, answer in enumerate(answers):
        position = len(answer.prompt_ids)
        for p_rows, q_rows in zip(
            answer_rows(target, answer), answer_rows(draft, answer), strict=True
        ):
            for p_row, q_row in zip(p_rows, q_rows, strict=True):
                for index, temperature in enumerate(temperatures):
                    totals[index] += _shares(p_row, q_row, temperature, answer.index, position)
                count += 1
                position += 1
        progress("positions of answers", done + 1, len(answers))
    return [
        Coupling(temperature, coupled, independent, rejection, count)
        for temperature, (coupled, independent, rejection) in zip(
            temperatures, (totals / count).tolist(), strict=True
        )
    ]


def _shares(
    p_row: Logits, q_row: Logits, temperature: float, choice: int, position: int
) -> tuple[float, float, float]:
    coupled = 0
    for seed in range(_NUM_DRAWS):
        sampling = Sampling(temperature, seed=seed, choice=choice)
        coupled += sample(p_row, sampling, position) == sample(q_row, sampling, position)
    p, q = (_softmax(row, temperature) for row in (p_row, q_row))
    return coupled / _NUM_DRAWS, float(p @ q), float(np.minimum(p, q).sum())


def _softmax(row: Logits, temperature: float) -> Logits:
    weights = np.exp((row - row.max()) / np.float32(temperature))
    return weights / weights.sum()
