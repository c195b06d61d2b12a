"""The step `train`: from corpus and answers in files to a checkpoint, in two phases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.distill.report import Reporter
from bench.distill.sampling.answers import Answer, AnswerFile
from bench.distill.sampling.corpus import id_dtype
from bench.distill.training.data import AnswerBatches, Batch, CorpusBatches, pack, split_answers
from bench.distill.training.gguf_files import read_embedding
from bench.distill.training.model import Shape, reduced_embedding
from bench.distill.training.plot import plot_log
from bench.distill.training.train import Batches, Schedule, Trainer, validation

_ROW_LENGTH = 512
_ROWS = 8
_TEMPERATURE = 0.8
_BEST_SHARE = 0.2
_MAX_HELD_OUT = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """corpus_tokens, epochs: length of the two phases. max_tokens: answer ids used at most."""

    width: int = 256
    num_layers: int = 4
    num_heads: int = 4
    num_hidden: int = 768
    corpus_tokens: int = 4_000_000
    epochs: float = 4.0
    answers_per_batch: int = 12
    max_tokens: int | None = None
    full_share: float = 0.25
    quantised_share: float = 0.25
    seed: int = 1
    threads: int = 1


def fit(
    target: Path,
    corpus: Path | None,
    answers: Sequence[Path],
    out: Path,
    options: FitOptions,
    should_stop: Callable[[], bool],
) -> str:
    """Train, or go on training, the draft in the folder `out`, and plot how it went.

    Returns a line about its end.
    """
    torch.set_num_threads(options.threads)
    rows = read_embedding(target)
    shape = Shape(
        num_vocab=len(rows),
        width=options.width,
        num_layers=options.num_layers,
        num_heads=options.num_heads,
        num_hidden=options.num_hidden,
    )
    is_new = not (out / "checkpoint.pt").exists()
    embedding = reduced_embedding(torch.from_numpy(rows), shape.width) if is_new else None
    trainer = Trainer(out, shape, seed=options.seed, embedding=embedding)
    trained, held_out = split_answers([AnswerFile(folder) for folder in answers])
    trained = up_to(trained, options.max_tokens)
    validate = validation(_held_out_batch(held_out), _TEMPERATURE) if held_out else None
    is_done = True
    with Reporter() as reporter:
        for phase, batches in _phases(corpus, trained, shape.num_vocab, options):
            is_done = is_done and trainer.run(
                phase, batches, reporter, should_stop=should_stop, validate=validate
            )
    plot_log(out / "log.jsonl", out / "loss.png")
    if not is_done:
        return "stopped; the same command goes on"
    num_tokens = sum(len(answer.answer_ids) for answer in trained)
    return f"trained on {num_tokens} answer tokens; checkpoint in {out}"


def _phases(
    corpus: Path | None, trained: Sequence[Answer], num_vocab: int, options: FitOptions
) -> Iterator[tuple[Schedule, Batches]]:
    """Yield the phases that there is data for."""
    if corpus is not None and options.corpus_tokens:
        phase = Schedule(
            name="corpus", num_steps=options.corpus_tokens // (_ROWS * _ROW_LENGTH), decay=0.2
        )
        path, dtype = corpus / "corpus.bin", id_dtype(num_vocab)
        yield (
            phase,
            CorpusBatches(path, dtype, rows=_ROWS, length=_ROW_LENGTH, seed=options.seed),
        )
    if trained:
        batches = AnswerBatches(
            trained,
            per_batch=options.answers_per_batch,
            length=_ROW_LENGTH,
            seed=options.seed,
            temperature=_TEMPERATURE,
            best_share=_BEST_SHARE,
        )
        phase = Schedule(
            name="answers",
            num_steps=round(options.epochs * batches.steps_per_epoch),
            temperature=_TEMPERATURE,
            full_share=options.full_share,
            quantised_share=options.quantised_share,
        )
        yield phase, batches


def up_to(answers: list[Answer], num_tokens: int | None) -> list[Answer]:
    """The first answers that together have at most `num_tokens` answer ids."""
    if num_tokens is None:
        return answers
    kept: list[Answer] = []
    for answer in answers:
        num_tokens -= len(answer.answer_ids)
        if num_tokens < 0:
            break
        kept.append(answer)
    return kept


def _held_out_batch(held_out: list[Answer]) -> Batch:
    return pack(held_out[:_MAX_HELD_OUT], _ROW_LENGTH, _TEMPERATURE, 0.0)
