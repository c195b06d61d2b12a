"""The step `evaluate`: figures of a draft on held-out prompts, as tables."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from bench.distill.measuring.coupling import Coupling, compare
from bench.distill.measuring.evaluate import (
    Guesses,
    Stopped,
    acceptance,
    guess_all,
    open_alone,
    passes,
    stopped_passes,
)
from bench.distill.report import Reporter
from bench.distill.sampling.prompts import HeldOutPrompts
from bench.distill.sampling.sample import sample_answers
from nodes.engine.protocol import EngineError, Model, Span
from nodes.worker.engines import calibration_of

_TEMPERATURES = (0.5, 0.8, 1.0)
_GAMMAS = (1, 2, 4, 8)
_NUM_STEPS = 60
_MAX_GAMMA = 8
_STOPS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def evaluate(
    target: Path,
    draft: Path,
    out: Path,
    *,
    num_prompts: int | None,
    max_answer: int,
    num_compared: int,
    seed: int,
) -> str:
    """Tables of acceptance, of passes that end by confidence, of noise, and of step time.

    The target's answers are sampled once and kept in `out`. num_compared: answers on which the
    kinds of noise are compared.
    """
    prompts = HeldOutPrompts(num_prompts)
    file, _ = sample_answers(target, out, prompts, seed=seed, max_answer=max_answer)
    answers = sorted(file, key=lambda answer: answer.index)
    models = [open_alone(path) for path in (target, draft)]
    try:
        hashes = {model.info.vocab_hash for model in models}
        if len(hashes) > 1:
            raise EngineError(f"{draft.name} has another vocabulary than {target.name}")
        with Reporter() as reporter:
            guesses = guess_all(models[1], answers, seed, reporter)
            # Each begins with what the file says, and learns on the way.
            stopped = [
                (
                    name,
                    [
                        stopped_passes(part, calibration_of(models[1]), stop, _MAX_GAMMA)
                        for stop in _STOPS
                    ],
                )
                for name, part in _by_temperature(guesses)
            ]
            chosen = answers[:: max(1, len(answers) // num_compared)] if num_compared else []
            couplings = (
                compare(models[0], models[1], chosen, _TEMPERATURES, reporter) if chosen else []
            )
            step_s = step_times(models)
    finally:
        for model in models:
            model.close()
    return "\n\n".join(
        [
            _acceptance_table(guesses),
            _round_table(guesses),
            _stop_table(stopped),
            *([_coupling_table(couplings)] if couplings else []),
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
    rows = ["| acceptance | all | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 2) + "|"]
    for name, part in _by_temperature(guesses):
        cells = [acceptance(part), *(acceptance(g for g in part if g.kind == k) for k in kinds)]
        rows.append(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    return "\n".join(rows)


def _round_table(guesses: Sequence[Guesses]) -> str:
    most = _GAMMAS[-1]
    heads = [f"gamma {gamma}" for gamma in _GAMMAS] + [f"guess {j + 1}" for j in range(most)]
    rows = [
        "Tokens a pass by gamma, and how often guess j is accepted once those before it were:",
        "| | " + " | ".join(heads) + " |",
        "|---" * (len(heads) + 1) + "|",
    ]
    for name, part in _by_temperature(guesses):
        cells = []
        for gamma in _GAMMAS:
            results = [passes(g.accepted, gamma) for g in part]
            cells.append(sum(r[2] for r in results) / sum(r[1] for r in results))
        longest = [passes(g.accepted, most) for g in part]
        counts = np.sum([r[0] for r in longest], axis=0).tolist()
        reached = [sum(r[1] for r in longest), *counts[:-1]]
        cells += [c / max(1, r) for c, r in zip(counts, reached, strict=True)]
        rows.append(f"| {name} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    return "\n".join(rows)


def _stop_table(stopped: Sequence[tuple[str, Sequence[Stopped]]]) -> str:
    rows = [
        f"Passes with at most {_MAX_GAMMA} guesses, ended by the draft's calibrated confidence:",
        "| | stop | accepted of those made | guesses judged a pass | tokens a pass |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| {name} | {s.stop:.1f} | {s.accepted:.3f} | {s.made:.2f} | {s.tokens:.2f} |"
        for name, part in stopped
        for s in part
    ]
    return "\n".join(rows)


def _coupling_table(couplings: Sequence[Coupling]) -> str:
    rows = [
        "| T | coupled (law 1) | independent | rejection (optimum) | coupled / rejection |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| {c.temperature} | {c.coupled:.3f} | {c.independent:.3f} | {c.rejection:.3f} "
        f"| {c.coupled / c.rejection:.2f} |"
        for c in couplings
    ]
    return "\n".join(rows)
