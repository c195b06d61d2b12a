"""The step `export`: a checkpoint as a GGUF, with how far its confidence can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.distill.evaluate import Guesses, guess_all, open_alone
from bench.distill.report import Reporter
from bench.distill.sampling.answers import AnswerFolder
from bench.distill.training.bins import Binned, binned, calibration_json
from bench.distill.training.data import split_answers
from bench.distill.training.gguf_files import quantise_draft, write_draft
from bench.distill.training.train import load_draft
from nodes.engine.llama_abi import hash_file
from nodes.engine.protocol import EngineError

# Of each folder.
_MAX_ANSWERS = 160
# The embedding has the type that it was trained for.
EMBEDDING, LAYERS = "Q4_0", "Q6_K"


def export_draft(
    target: Path, run: Path, out: Path, *, answers: Sequence[Path], name: str, licence: str
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
        quantise_draft(whole, out, embedding=EMBEDDING, layers=LAYERS)
        whole.unlink()

    write("")
    if answers:
        # The file as it will be used is what is calibrated: quantisation is part of it.
        write(_calibration(out, answers))
    return f"{out}: {out.stat().st_size} bytes, SHA-256 {hash_file(out)}"


def _calibration(draft: Path, folders: Sequence[Path]) -> str:
    """What the draft's file shall say: how sure it is of its guesses, and how often rightly."""
    chosen = [
        answer
        for folder in folders
        for answer in split_answers([AnswerFolder(folder)])[1][:_MAX_ANSWERS]
    ]
    if not chosen:
        raise EngineError("no answers are held out: sample more of them")
    model = open_alone(draft)
    try:
        with Reporter() as reporter:
            guesses = guess_all(model, chosen, reporter)
    finally:
        model.close()
    greedy = _binned([g for g in guesses if g.temperature == 0])
    sampled = _binned([g for g in guesses if g.temperature > 0])
    return calibration_json(greedy, sampled)


def _binned(guesses: Sequence[Guesses]) -> Binned:
    confidences = [c for g in guesses for c in g.confidences.tolist()]
    accepted = [a for g in guesses for a in g.accepted.tolist()]
    return binned(confidences, accepted)
