"""The step `evaluate`: how many guesses of a draft its target accepts on held-out prompts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from bench.decoding import guesses_of
from bench.distill.report import Progress, Reporter
from bench.distill.sampling.answers import Answer
from bench.distill.sampling.prompts import held_out_prompts
from bench.distill.sampling.sample import sample_answers
from bench.harness.report import head, row
from nodes.engine.llama import LlamaConfig, LlamaModel
from nodes.engine.protocol import EngineError, Model, Span


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


def guess_all(draft: Model, answers: Sequence[Answer], progress: Progress) -> list[Guesses]:
    """Let a draft guess every token of the answers with the noise that the target used."""
    results = []
    for done, answer in enumerate(answers):
        ids = answer.prompt_ids.tolist(), answer.answer_ids.tolist()
        token_ids, confidences = guesses_of(draft, *ids, answer.sampling)
        accepted = np.asarray(token_ids) == answer.answer_ids
        guesses = Guesses(answer.kind, answer.temperature, accepted, np.asarray(confidences))
        results.append(guesses)
        progress("guesses of answers", done + 1, len(answers))
    return results


def acceptance(guesses: Iterable[Guesses]) -> float:
    """Share of guesses accepted, all positions alike."""
    flags = np.concatenate([g.accepted for g in guesses])
    return float(flags.mean())


def passes(guesses: Sequence[Guesses], gamma: int) -> tuple[float, list[float]]:
    """Go through answers in passes: gamma guesses at most, and the target's token after right ones.

    Returns the tokens of a pass, and (gamma,) how often guess j was right where those before it
    were.
    """
    num_passes = num_tokens = 0
    judged, accepted = np.zeros((2, gamma), dtype=np.int64)
    for answer in guesses:
        place, length = 0, len(answer.accepted)
        while place < length:
            flags = answer.accepted[place : place + gamma].tolist()
            right = [*flags, False].index(False)
            judged[: min(right + 1, len(flags))] += 1
            accepted[:right] += 1
            num_passes += 1
            num_tokens += min(right + 1, length - place)
            place += right + 1
    return num_tokens / num_passes, (accepted / np.maximum(1, judged)).tolist()


_GAMMAS = (1, 2, 4, 8)
_NUM_STEPS = 60


def evaluate(
    target: Path, draft: Path, out: Path, *, num_prompts: int | None, max_answer: int, seed: int
) -> str:
    """Tables of acceptance and of passes, and step times.

    The target's answers are sampled once and kept in `out`.
    """
    prompts = held_out_prompts(num_prompts)
    answers = [*sample_answers(target, out, prompts, seed=seed, max_answer=max_answer)[0]]
    if len(answers) < (num_wanted := len(list(prompts.every))):
        raise EngineError(
            f"stopped after {len(answers)} of {num_wanted} answers: the same command goes on"
        )
    with contextlib.ExitStack() as stack:
        models = [stack.enter_context(closing(open_alone(path))) for path in (target, draft)]
        if models[0].info.vocab_hash != models[1].info.vocab_hash:
            raise EngineError(f"{draft.name} has another vocabulary than {target.name}")
        guesses = guess_all(models[1], answers, stack.enter_context(Reporter()))
        target_ms, draft_ms = (seconds * 1e3 for seconds in step_times(models))
        tables = [
            _acceptance_table(guesses),
            _gamma_table(guesses),
            f"One step: target {target_ms:.2f} ms, draft {draft_ms:.2f} ms, "
            f"ratio 1/{target_ms / draft_ms:.1f}",
        ]
    return "\n\n".join(tables)


def step_times(models: Sequence[Model]) -> list[float]:
    """Median seconds of a step of one token, the models taking turns."""
    seconds: list[list[float]] = [[] for _ in models]
    for step in range(_NUM_STEPS):
        for model, times in zip(models, seconds, strict=True):
            began_s = time.perf_counter()
            model.forward([Span(0, step, [100 + step], 1)])
            times.append(time.perf_counter() - began_s)
    for model in models:
        model.truncate(0, 0)
    return [median(times) for times in seconds]


def _by_temperature(guesses: Sequence[Guesses]) -> list[tuple[str, list[Guesses]]]:
    greedy = [g for g in guesses if g.temperature == 0]
    warm = [g for g in guesses if g.temperature > 0]
    return [("greedy", greedy), ("T 0.8, top-p 0.95", warm)]


def _acceptance_table(guesses: Sequence[Guesses]) -> str:
    kinds = sorted({g.kind for g in guesses})
    rows = [head("acceptance", "all", *kinds)]
    for name, part in _by_temperature(guesses):
        cells = [acceptance(part), *(acceptance(g for g in part if g.kind == k) for k in kinds)]
        rows.append(row(name, *(f"{cell:.3f}" for cell in cells)))
    return "\n".join(rows)


def _gamma_table(guesses: Sequence[Guesses]) -> str:
    columns = [f"gamma {gamma}" for gamma in _GAMMAS]
    columns += [f"guess {j + 1}" for j in range(_GAMMAS[-1])]
    rows = [
        "Tokens a pass by gamma, and how often guess j is accepted once those before it were:",
        head("", *columns),
    ]
    for name, part in _by_temperature(guesses):
        found = [passes(part, gamma) for gamma in _GAMMAS]
        cells = [*(tokens for tokens, _ in found), *found[-1][1]]
        rows.append(row(name, *(f"{cell:.2f}" for cell in cells)))
    return "\n".join(rows)
