"""How far a draft's confidence can be trusted, on answers held out of its training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.distill.measuring.evaluate import Guesses, guess
from bench.distill.sampling.answers import AnswerFile
from bench.distill.sampling.corpus import Progress
from bench.distill.training.data import split_answers
from nodes.engine.llama import LlamaConfig, LlamaModel
from nodes.engine.protocol import EngineError
from policies.acceptance import Binned, binned, calibration_json

_MAX_ANSWERS = 160


def calibrate_draft(draft: Path, files: Sequence[AnswerFile], progress: Progress) -> str:
    """What the draft's file shall say: how sure it is of its guesses, and how often rightly."""
    chosen = []
    for file in files:
        _, held_out = split_answers([file])
        chosen += [(file.recipe.seed, answer) for answer in held_out[:_MAX_ANSWERS]]
    if not chosen:
        raise EngineError("no answers are held out: sample more of them")
    model = LlamaModel(LlamaConfig(path=draft, num_cells=2048, max_sequences=1))
    guesses = []
    try:
        for done, (seed, answer) in enumerate(chosen):
            guesses.append(guess(model, answer, seed))
            progress("calibrating", done + 1, len(chosen))
    finally:
        model.close()
    greedy = _binned([g for g in guesses if g.temperature == 0])
    sampled = _binned([g for g in guesses if g.temperature > 0])
    return calibration_json(greedy, sampled)


def _binned(guesses: Sequence[Guesses]) -> Binned:
    confidences = [c for g in guesses for c in g.confidences.tolist()]
    accepted = [a for g in guesses for a in g.accepted.tolist()]
    return binned(confidences, accepted)
