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
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Guesses:
    """What a draft guesses at every position of one answer, given all before it.

    accepted: (n,) the guess equals the target's token. confidences: (n,) the draft's probability of
    its guess (T = 1). A guess counts only where all before it were accepted, so these are also the
    guesses of passes, however many a pass takes.
    """

    kind: str
    temperature: float
    accepted: Flags
    confidences: npt.NDArray[np.float64]


def open_alone(path: Path) -> LlamaModel:
    """A model with room for one answer at a time."""
    return LlamaModel(LlamaConfig(path=path, num_cells=2048, max_sequences=1))


def answer_rows(model: Model, answer: Answer) -> Iterator[Logits]:
    """Logits for every answer position, in chunks that the next one overwrites."""
    prompt = answer.prompt_ids.tolist()
    for start in range(0, len(prompt) - 1, _CHUNK):
        model.forward([Span(0, start, prompt[:-1][start : start + _CHUNK])])
    inputs = [prompt[-1], *answer.answer_ids[:-1].tolist()]
    for start in range(0, len(inputs), _CHUNK):
        piece = inputs[start : start + _CHUNK]
        yield model.forward([Span(0, len(prompt) - 1 + start, piece, len(piece))])
    model.truncate(0, 0)


def guess(draft: Model, answer: Answer, seed: int) -> Guesses:
    """Let a draft guess every token of an answer with the noise the target used."""
    sampling = Sampling(answer.temperature, top_p=answer.top_p, seed=seed, choice=answer.index)
    position = len(answer.prompt_ids)
    token_ids: list[int] = []
    confidences: list[float] = []
    for rows in answer_rows(draft, answer):
        for row in rows:
            token_id = sample(row, sampling, position)
            token_ids.append(token_id)
            confidences.append(probability(row, token_id))
            position += 1
    return Guesses(
        kind=answer.kind,
        temperature=answer.temperature,
        accepted=np.asarray(token_ids) == answer.answer_ids,
        confidences=np.asarray(confidences),
    )


def guess_all(
    draft: Model, answers: Sequence[Answer], seed: int, progress: Progress
) -> list[Guesses]:
    results = []
    for done, answer in enumerate(answers):
        results.append(guess(draft, answer, seed))
        progress("guesses of answers", done + 1, len(answers))
    return results


def acceptance(guesses: Iterable[Guesses]) -> float:
    """Share of guesses accepted, all positions alike."""
    flags = np.concatenate([g.accepted for g in guesses])
    return float(flags.mean())


def passes(accepted: Flags, gamma: int) -> tuple[npt.NDArray[np.int64], int, int]:
    """Cut an answer into passes with gamma guesses and the target's token after the accepted ones.

    Returns how often guess j = 0..gamma-1 was accepted, the number of passes, tokens committed.
    """
    counts = np.zeros(gamma, dtype=np.int64)
    num_passes = place = 0
    while place < len(accepted):
        part = accepted[place : place + gamma]
        run = len(part) if part.all() else int(part.argmin())
        counts[:run] += 1
        num_passes += 1
        place += run + 1
    return counts, num_passes, min(place, len(accepted))


@dataclass(frozen=True, slots=True)
class Stopped:
    """Passes whose guesses end where the chance of all of them falls below `stop`.

    accepted: share of the guesses made that are accepted, once those before them were. made: how
    many were judged in a pass, until the first wrong one. tokens: committed a pass.
    """

    stop: float
    accepted: float
    made: float
    tokens: float


def stopped_passes(
    guesses: Sequence[Guesses], calibration: DraftCalibration, stop: float, gamma: int
) -> Stopped:
    """Go through answers in passes with at most gamma guesses, and learn how sure the draft is."""
    num_accepted = num_judged = num_passes = num_tokens = 0
    for answer in guesses:
        table = calibration.of(answer.temperature)
        place = 0
        while place < len(answer.accepted):
            chance, right, end = 1.0, 0, min(place + gamma, len(answer.accepted))
            tried: list[int] = []
            while (at := place + right) < end:
                # One that is not made has a fate, too: otherwise low bins would never be corrected.
                tried.append(at)
                chance *= table.chance(float(answer.confidences[at]))
                if chance < stop:
                    break
                num_judged += 1
                if not answer.accepted[at]:
                    break
                right += 1
            for at in tried:
                is_right = bool(answer.accepted[at])
                table.observe(float(answer.confidences[at]), accepted=is_right)
            num_accepted += right
            num_passes += 1
            num_tokens += min(right + 1, len(answer.accepted) - place)
            place += right + 1
    return Stopped(
        stop,
        num_accepted / max(1, num_judged),
        num_judged / max(1, num_passes),
        num_tokens / max(1, num_passes),
    )
