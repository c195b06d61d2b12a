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

from bench.decoding import guesses_of, output_rows
from bench.distill.report import Progress, Reporter
from bench.distill.sampling.answers import Answer
from bench.distill.sampling.prompts import held_out_prompts
from bench.distill.sampling.sample import sample_answers
from bench.harness.report import head, row
from nodes.engine.llama import LlamaConfig, LlamaModel
from nodes.engine.protocol import EngineError, Logits, Model, Span
from nodes.engine.sampling import Sampling, sample
from nodes.worker.engines import calibration_of
from policies.acceptance import DraftCalibration

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


def guess_all(draft: Model, answers: Sequence[Answer], progress: Progress) -> list[Guesses]:
    """Let a draft guess every token of the answers with the noise that the target used."""
    results = []
    for done, answer in enumerate(answers):
        token_ids, confidences = guesses_of(draft, *_ids_of(answer), answer.sampling)
        accepted = np.asarray(token_ids) == answer.answer_ids
        guesses = Guesses(answer.kind, answer.temperature, accepted, np.asarray(confidences))
        results.append(guesses)
        progress("guesses of answers", done + 1, len(answers))
    return results


def _ids_of(answer: Answer) -> tuple[list[int], list[int]]:
    return answer.prompt_ids.tolist(), answer.answer_ids.tolist()


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
        both = (output_rows(model, *_ids_of(answer)) for model in (target, draft))
        for position, (p_row, q_row) in enumerate(zip(*both, strict=True), len(answer.prompt_ids)):
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
        reporter = stack.enter_context(Reporter())
        guesses = guess_all(models[1], answers, reporter)
        chosen = answers[:: max(1, len(answers) // _NUM_COMPARED)]
        noise = compare_noise(models[0], models[1], chosen, _TEMPERATURES, reporter)
        target_ms, draft_ms = (seconds * 1e3 for seconds in step_times(models))
        tables = [
            _acceptance_table(guesses),
            _gamma_table(guesses, models[1]),
            _stop_table(guesses, models[1]),
            _noise_table(noise),
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
