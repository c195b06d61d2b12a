"""How many of a draft's guesses its target accepts under law 1, on prompts held out of training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.distill.report import Progress
from bench.distill.sampling.answers import Answer
from nodes.engine.llama import LlamaConfig, LlamaModel
from nodes.engine.protocol import Logits, Model, Span
from nodes.engine.sampling import Sampling, probability, sample
from policies.acceptance import DraftCalibration

_CHUNK = 64
# Draws for a position where kinds of noise are compared.
_NUM_DRAWS = 2


@dataclass(frozen=True, slots=True)
class Guesses:
    """What a draft guesses at every position of one answer, given all before it.

    accepted: (n,) the guess equals the target's token. confidences: (n,) the draft's probability of
    its guess (T = 1). A guess counts only where all before it were accepted, so these are also the
    guesses of passes, however many a pass takes.
    """

    kind: str
    temperature: float
    accepted: npt.NDArray[np.bool_]
    confidences: npt.NDArray[np.float64]


def open_alone(path: Path) -> LlamaModel:
    """A model with room for one answer at a time."""
    return LlamaModel(LlamaConfig(path=path, num_cells=2048, max_sequences=1))


def answer_rows(model: Model, answer: Answer) -> Iterator[Logits]:
    """Logits of each answer position; a later one overwrites them."""
    prompt = answer.prompt_ids.tolist()
    for start in range(0, len(prompt) - 1, _CHUNK):
        model.forward([Span(0, start, prompt[:-1][start : start + _CHUNK])])
    inputs = [prompt[-1], *answer.answer_ids[:-1].tolist()]
    for start in range(0, len(inputs), _CHUNK):
        piece = inputs[start : start + _CHUNK]
        yield from model.forward([Span(0, len(prompt) - 1 + start, piece, len(piece))])
    model.truncate(0, 0)


def guess_all(draft: Model, answers: Sequence[Answer], progress: Progress) -> list[Guesses]:
    """Let a draft guess every token of the answers with the noise that the target used."""
    results = []
    for done, answer in enumerate(answers):
        token_ids: list[int] = []
        confidences: list[float] = []
        for position, row in enumerate(answer_rows(draft, answer), len(answer.prompt_ids)):
            token_id = sample(row, answer.sampling, position)
            token_ids.append(token_id)
            confidences.append(probability(row, token_id))
        accepted = np.asarray(token_ids) == answer.answer_ids
        guesses = Guesses(answer.kind, answer.temperature, accepted, np.asarray(confidences))
        results.append(guesses)
        progress("guesses of answers", done + 1, len(answers))
    return results


def acceptance(guesses: Iterable[Guesses]) -> float:
    """Share of guesses accepted, all positions alike."""
    flags = np.concatenate([g.accepted for g in guesses])
    return float(flags.mean())


@dataclass(frozen=True, slots=True)
class Passes:
    """What became of the guesses of all passes.

    judged, accepted: (gamma,) how often guess j was made after right ones only, and was right.
    """

    num: int
    num_tokens: int
    judged: npt.NDArray[np.int64]
    accepted: npt.NDArray[np.int64]


def passes(
    guesses: Sequence[Guesses], gamma: int, calibration: DraftCalibration, stop: float = 0.0
) -> Passes:
    """Go through answers in passes: guesses, and the target's token after the accepted ones.

    A pass has gamma guesses at most. They end where the chance of all of them falls below `stop`;
    the calibration, which begins with what it is given, learns on the way.
    """
    num_passes = num_tokens = 0
    judged, accepted = np.zeros((2, gamma), dtype=np.int64)
    for answer in guesses:
        table = calibration.of(answer.temperature)
        length, place = len(answer.accepted), 0
        while place < length:
            chance, right = 1.0, 0
            tried: list[tuple[float, bool]] = []
            while right < min(gamma, length - place):
                at = place + right
                confidence, is_right = float(answer.confidences[at]), bool(answer.accepted[at])
                # One that is not made has a fate, too: otherwise low bins would never be corrected.
                tried.append((confidence, is_right))
                chance *= table.chance(confidence)
                if chance < stop:
                    break
                judged[right] += 1
                if not is_right:
                    break
                accepted[right] += 1
                right += 1
            for confidence, is_right in tried:
                table.observe(confidence, accepted=is_right)
            num_passes += 1
            num_tokens += min(right + 1, length - place)
            place += right + 1
    return Passes(num_passes, num_tokens, judged, accepted)


def compare_noise(
    target: Model,
    draft: Model,
    answers: Sequence[Answer],
    temperatures: Sequence[float],
    progress: Progress,
) -> npt.NDArray[np.float64]:
    """(temperatures, 3) shares of guesses accepted at the same positions, by the kind of noise.

    Coupled: both models take the argmax with the same noise, as law 1 has it. Independent: each
    draws for itself. Rejection: speculative sampling (Leviathan et al. 2023), which no scheme
    exceeds. There is no top-p, as rejection sampling is stated without.
    """
    totals = np.zeros((len(temperatures), 3))
    for done, answer in enumerate(answers):
        rows = zip(answer_rows(target, answer), answer_rows(draft, answer), strict=True)
        for position, (p_row, q_row) in enumerate(rows, len(answer.prompt_ids)):
            for index, temperature in enumerate(temperatures):
                totals[index] += _shares(p_row, q_row, temperature, answer.index, position)
        progress("positions of answers", done + 1, len(answers))
    return totals / sum(len(answer.answer_ids) for answer in answers)


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
