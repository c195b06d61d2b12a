"""The step `evaluate`: figures of a draft on held-out prompts, as tables."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from bench.distill.measuring.evaluate import (
    Guesses,
    acceptance,
    compare_noise,
    guess_all,
    open_alone,
    passes,
)
from bench.distill.report import Reporter
from bench.distill.sampling.prompts import HeldOutPrompts
from bench.distill.sampling.sample import sample_answers
from bench.harness.report import head, row
from nodes.engine.protocol import EngineError, Model, Span
from nodes.worker.engines import calibration_of

_TEMPERATURES = (0.5, 0.8, 1.0)
_GAMMAS = (1, 2, 4, 8)
_NUM_STEPS = 60
_STOPS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
# Kinds of noise are compared on about this many answers.
_NUM_COMPARED = 40


def evaluate(
    target: Path, draft: Path, out: Path, *, num_prompts: int | None, max_answer: int, seed: int
) -> str:
    """Tables of acceptance, of passes that end by confidence, of noise, and of step time.

    The target's answers are sampled once and kept in `out`.
    """
    prompts = HeldOutPrompts(num_prompts)
    answers = [*sample_answers(target, out, prompts, seed=seed, max_answer=max_answer)[0]]
    models = [open_alone(path) for path in (target, draft)]
    try:
        if models[0].info.vocab_hash != models[1].info.vocab_hash:
            raise EngineError(f"{draft.name} has another vocabulary than {target.name}")
        with Reporter() as reporter:
            guesses = guess_all(models[1], answers, reporter)
            chosen = answers[:: max(1, len(answers) // _NUM_COMPARED)]
            noise = compare_noise(models[0], models[1], chosen, _TEMPERATURES, reporter)
        step_s = step_times(models)
        tables = [
            _acceptance_table(guesses),
            _gamma_table(guesses, models[1]),
            _stop_table(guesses, models[1]),
            _noise_table(noise),
        ]
    finally:
        for model in models:
            model.close()
    return "\n\n".join(
        [
            *tables,
            f"One step: target {step_s[0] * 1e3:.2f} ms, draft {step_s[1] * 1e3:.2f} ms, "
            f"ratio 1/{step_s[0] / step_s[1]:.1f}",
        ]
    )


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


def _gamma_table(guesses: Sequence[Guesses], draft: Model) -> str:
    columns = [f"gamma {gamma}" for gamma in _GAMMAS]
    columns += [f"guess {j + 1}" for j in range(_GAMMAS[-1])]
    rows = [
        "Tokens a pass by gamma, and how often guess j is accepted once those before it were:",
        head("", *columns),
    ]
    for name, part in _by_temperature(guesses):
        found = [passes(part, gamma, calibration_of(draft)) for gamma in _GAMMAS]
        cells = [each.num_tokens / each.num for each in found]
        cells += (found[-1].accepted / np.maximum(1, found[-1].judged)).tolist()
        rows.append(row(name, *(f"{cell:.2f}" for cell in cells)))
    return "\n".join(rows)


def _stop_table(guesses: Sequence[Guesses], draft: Model) -> str:
    """Each row begins with the calibration of the draft's file, and learns on the way."""
    most = _GAMMAS[-1]
    rows = [
        f"Passes with at most {most} guesses, ended by the draft's calibrated confidence:",
        head("", "stop", "accepted of those made", "guesses judged a pass", "tokens a pass"),
    ]
    for name, part in _by_temperature(guesses):
        for stop in _STOPS:
            found = passes(part, most, calibration_of(draft), stop)
            num_judged = found.judged.sum()
            accepted = found.accepted.sum() / max(1, num_judged)
            cells = f"{num_judged / found.num:.2f}", f"{found.num_tokens / found.num:.2f}"
            rows.append(row(name, f"{stop:.1f}", f"{accepted:.3f}", *cells))
    return "\n".join(rows)


def _noise_table(noise: npt.NDArray[np.float64]) -> str:
    columns = "coupled (law 1)", "independent", "rejection (optimum)", "coupled / rejection"
    rows = [head("T", *columns)]
    for temperature, shares in zip(_TEMPERATURES, noise.tolist(), strict=True):
        cells = [f"{share:.3f}" for share in shares]
        rows.append(row(f"{temperature}", *cells, f"{shares[0] / shares[2]:.2f}"))
    return "\n".join(rows)
