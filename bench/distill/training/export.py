"""The step `export`: a checkpoint as a GGUF, with how far its confidence can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.distill.measuring.evaluate import Guesses, guess, open_alone
from bench.distill.report import Progress, Reporter
from bench.distill.sampling.answers import AnswerFile
from bench.distill.training.bins import Binned, binned, calibration_json
from bench.distill.training.data import split_answers
from bench.distill.training.gguf_files import quantise_draft, write_draft
from bench.distill.training.train import load_draft
from nodes.engine.llama_abi import hash_file
from nodes.engine.protocol import EngineError

_MAX_ANSWERS = 160


def export_draft(
    target: Path,
    run: Path,
    out: Path,
    *,
    answers: Sequence[Path],
    embedding: str,
    layers: str,
    name: str,
    licence: str,
) -> str:
    """The checkpoint of a training folder as a quantised GGUF.

    answers: where there are any, those held out of training calibrate the draft's confidence.
    """
    model = load_draft(run)
    whole = out.with_suffix(".f16.gguf")
    out.parent.mkdir(parents=True, exist_ok=True)

    def write(calibration: str) -> None:
        write_draft(
            model,
            target,
            whole,
            name=name,
            licence=licence,
            dtype=np.float16,
            calibration=calibration,
        )
        quantise_draft(whole, out, embedding=embedding, layers=layers)
        whole.unlink()

    write("")
    if answers:
        # The file as it will be used is what is calibrated: quantisation is part of it.
        with Reporter() as reporter:
            write(_calibration(out, [AnswerFile(folder) for folder in answers], reporter))
    return f"{out}: {out.stat().st_size} bytes, SHA-256 {hash_file(out)}"


def _calibration(draft: Path, files: Sequence[AnswerFile], progress: Progress) -> str:
    """What the draft's file shall say: how sure it is of its guesses, and how often rightly."""
    chosen = []
    for file in files:
        _, held_out = split_answers([file])
        chosen += [(file.recipe.seed, answer) for answer in held_out[:_MAX_ANSWERS]]
    if not chosen:
        raise EngineError("no answers are held out: sample more of them")
    model = open_alone(draft)
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
