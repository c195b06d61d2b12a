"""Batches by step number: the same step gives the same batch, so a run can stop anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from airdraft.nodes.engine.protocol import EngineError
from bench.distill.sampling.answers import Answer, AnswerFolder

# One answer in this many is never trained on.
HELD_OUT_EVERY = 50


@dataclass(frozen=True, slots=True)
class Batch:
    """token_ids: (rows, length). Wanted positions, flat, with the ids and weights to learn there.

    positions: (n,) indices into rows * length; teacher_ids, teacher_weights: (n, k), weights of a
    position sum to 1.
    """

    token_ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    teacher_ids: npt.NDArray[np.int64]
    teacher_weights: npt.NDArray[np.float32]


class CorpusBatches:
    """Random windows of plain text; the teacher is the next token."""

    def __init__(self, path: Path, *, rows: int, length: int, seed: int) -> None:
        self._ids = np.load(path, mmap_mode="r")
        if len(self._ids) < length + 2:
            raise EngineError(
                f"{path} holds {len(self._ids)} tokens, fewer than the {length + 2} of a row: "
                "make a corpus of more text"
            )
        self._rows, self._length, self._seed = rows, length, seed

    def batch(self, step: int) -> Batch:
        source = np.random.default_rng([self._seed, 1, step])
        starts = source.integers(0, len(self._ids) - self._length - 1, self._rows)
        windows = np.stack([self._ids[s : s + self._length + 1] for s in starts]).astype(np.int64)
        teacher = windows[:, 1:].reshape(-1, 1)
        return Batch(
            token_ids=windows[:, :-1],
            positions=np.arange(len(teacher)),
            teacher_ids=teacher,
            teacher_weights=np.ones(teacher.shape, dtype=np.float32),
        )


class AnswerBatches:
    """Prompts and answers in shuffled order, epoch after epoch; the teacher is the target's view.

    temperature, best_share: what is learnt at a position is the target's distribution over its
    best tokens at this temperature, with `best_share` of the weight moved to the best one.
    """

    def __init__(
        self,
        answers: Sequence[Answer],
        *,
        per_batch: int,
        length: int,
        seed: int,
        temperature: float,
        best_share: float,
    ) -> None:
        self._answers = answers
        self._per_batch = min(per_batch, len(answers))
        self._length, self._seed = length, seed
        self._temperature, self._best_share = temperature, best_share

    @property
    def steps_per_epoch(self) -> int:
        return len(self._answers) // self._per_batch

    def batch(self, step: int) -> Batch:
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self._seed, 2, epoch]).permutation(len(self._answers))
        chosen = order[place * self._per_batch : (place + 1) * self._per_batch]
        return pack(
            [self._answers[i] for i in chosen], self._length, self._temperature, self._best_share
        )


def pack(answers: Sequence[Answer], length: int, temperature: float, best_share: float) -> Batch:
    """One text after the other, cut into rows of `length`; the last row is filled with zeros.

    A row holds several texts: the model sees long distances and learns to look past them.
    """
    token_ids: list[npt.NDArray[Any]] = []
    positions: list[npt.NDArray[np.int64]] = []
    offset = 0
    for answer in answers:
        # The last id is never an input: nothing is learnt after it.
        text = np.concatenate([answer.prompt_ids, answer.answer_ids[:-1]])
        first = offset + len(answer.prompt_ids) - 1
        positions.append(np.arange(first, first + len(answer.answer_ids)))
        token_ids.append(text)
        offset += len(text)
    num_rows = -(-offset // length)
    flat = np.zeros(num_rows * length, dtype=np.int64)
    flat[:offset] = np.concatenate(token_ids)
    logps = np.concatenate([answer.best_logps for answer in answers]).astype(np.float32)
    weights = np.exp((logps - logps[:, :1]) / temperature)
    weights *= (1.0 - best_share) / weights.sum(axis=1, keepdims=True)
    weights[:, 0] += best_share
    return Batch(
        token_ids=flat.reshape(num_rows, length),
        positions=np.concatenate(positions),
        teacher_ids=np.concatenate([answer.best_ids for answer in answers]).astype(np.int64),
        teacher_weights=weights.astype(np.float32),
    )


def split_answers(folders: Sequence[AnswerFolder]) -> tuple[list[Answer], list[Answer]]:
    """Answers to train on, and those held out; all of one target, sampled with several seeds."""
    trained: list[Answer] = []
    held_out: list[Answer] = []
    for folder in folders:
        if (folder.recipe.model_hash, folder.recipe.num_best) != (
            folders[0].recipe.model_hash,
            folders[0].recipe.num_best,
        ):
            raise EngineError(
                f"{folder.path} and {folders[0].path} are answers of different targets"
            )
        for answer in folder:
            (trained if answer.index % HELD_OUT_EVERY else held_out).append(answer)
    return trained, held_out
