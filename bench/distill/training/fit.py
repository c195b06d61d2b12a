"""The step `train`: from corpus and answers in files to a checkpoint, in two phases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench.distill.report import Reporter
from bench.distill.sampling.answers import AnswerFolder
from bench.distill.sampling.corpus import TOKENS
from bench.distill.training.data import AnswerBatches, CorpusBatches, pack, split_answers
from bench.distill.training.gguf_files import read_embedding
from bench.distill.training.model import Shape, reduced_embedding
from bench.distill.training.train import Batches, Schedule, Trainer, validation

_ROW_LENGTH = 512
_ROWS = 8
_ANSWERS_PER_BATCH = 12
_TEMPERATURE = 0.8
_BEST_SHARE = 0.2
_MAX_HELD_OUT = 60


def fit(
    target: Path,
    corpus: Path | None,
    answers: Sequence[Path],
    out: Path,
    should_stop: Callable[[], bool],
    *,
    corpus_tokens: int,
    epochs: float,
    seed: int,
    threads: int,
) -> str:
    """Train, or go on training, the draft in the folder `out`; returns a line about its end.

    corpus_tokens, epochs: length of the two phases. One without data is left out.
    """
    torch.set_num_threads(threads)
    rows = read_embedding(target)
    shape = Shape(num_vocab=len(rows))
    embedding = reduced_embedding(torch.from_numpy(rows), shape.width)
    trainer = Trainer(out, shape, seed=seed, embedding=embedding)
    trained, held_out = split_answers([AnswerFolder(folder) for folder in answers])
    validate = None
    if held_out:
        batch = pack(held_out[:_MAX_HELD_OUT], _ROW_LENGTH, _TEMPERATURE, 0.0)
        validate = validation(batch, _TEMPERATURE)
    phases: list[tuple[Schedule, Batches]] = []
    if corpus is not None:
        num_steps = corpus_tokens // (_ROWS * _ROW_LENGTH)
        windows = CorpusBatches(corpus / TOKENS, rows=_ROWS, length=_ROW_LENGTH, seed=seed)
        phases.append((Schedule(name="corpus", num_steps=num_steps, decay=0.2), windows))
    if trained:
        batches = AnswerBatches(
            trained,
            per_batch=_ANSWERS_PER_BATCH,
            length=_ROW_LENGTH,
            seed=seed,
            temperature=_TEMPERATURE,
            best_share=_BEST_SHARE,
        )
        phase = Schedule(
            name="answers",
            num_steps=round(epochs * batches.steps_per_epoch),
            temperature=_TEMPERATURE,
            full_share=0.25,
            quantised_share=0.25,
        )
        phases.append((phase, batches))
    with Reporter() as reporter:
        for phase, batches_of_phase in phases:
            if not trainer.run(
                phase, batches_of_phase, reporter, should_stop=should_stop, validate=validate
            ):
                return "stopped; the same command goes on"
    num_tokens = sum(len(answer.answer_ids) for answer in trained)
    return f"trained on {num_tokens} answer tokens; checkpoint in {out}"
