"""The file of sampled answers: records appended one by one, so that sampling can go on anywhere.

A record: eight uint32 (magic, prompt index, kind, number of prompt ids, of answer ids, temperature
in thousandths, top-p in thousandths, finished), prompt ids, answer ids, and for every answer
position the target's best ids and their log-probabilities (at T = 1) as float16.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from bench.distill.sampling.corpus import TokenIds, id_dtype
from nodes.engine.protocol import EngineError

_MAGIC = 0x41534E31
_HEADER_ITEMS = 8
# Never reordered: files hold their places.
KINDS = (
    *("self", "explain", "list", "question", "code", "write", "chat", "summarise", "rewrite"),
    *("edit", "extract"),
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What makes answers of one file alike; a file is only continued with the same recipe."""

    model_hash: str
    vocab_hash: str
    num_vocab: int
    num_best: int
    max_answer: int
    seed: int
    prompts_sha256: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One prompt and the target's answer.

    prompt_ids: (p,); answer_ids: (n,); best_ids, best_logps: (n, num_best), the target's view of
    each answer position, best first. is_finished: the target ended it, not the limit.
    """

    index: int
    kind: str
    temperature: float
    top_p: float
    is_finished: bool
    prompt_ids: TokenIds
    answer_ids: TokenIds
    best_ids: TokenIds
    best_logps: npt.NDArray[np.float16]


class AnswerFile:
    """Records in a folder: answers.bin, and recipe.json that says how they were made."""

    def __init__(self, folder: Path, recipe: Recipe | None = None) -> None:
        self.path = folder / "answers.bin"
        manifest = folder / "recipe.json"
        if recipe is not None:
            folder.mkdir(parents=True, exist_ok=True)
        known = _read_recipe(manifest)
        if known is None:
            if recipe is None:
                raise EngineError(f"no answers in {folder}: run `python -m bench distill sample`")
            manifest.write_text(json.dumps(asdict(recipe), indent=1) + "\n")
        elif recipe is not None and recipe != known:
            raise EngineError(f"{folder} holds answers of another recipe: choose another folder")
        self.recipe: Recipe = known or recipe  # type: ignore[assignment]
        self._dtype = np.dtype(id_dtype(self.recipe.num_vocab))

    def __iter__(self) -> Iterator[Answer]:
        """All whole records."""
        if not self.path.exists():
            return
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            while (answer := self._read(file, size)) is not None:
                yield answer

    def repair(self) -> tuple[set[int], int]:
        """Cut off a record that was being written at a kill; indices and answer ids there are."""
        indices: set[int] = set()
        num_tokens = end = 0
        if self.path.exists():
            size = self.path.stat().st_size
            with self.path.open("rb+") as file:
                while (answer := self._read(file, size)) is not None:
                    indices.add(answer.index)
                    num_tokens += len(answer.answer_ids)
                    end = file.tell()
                file.truncate(end)
        return indices, num_tokens

    def append(self, answer: Answer) -> None:
        header = [
            _MAGIC,
            answer.index,
            KINDS.index(answer.kind),
            len(answer.prompt_ids),
            len(answer.answer_ids),
            round(answer.temperature * 1000),
            round(answer.top_p * 1000),
            int(answer.is_finished),
        ]
        parts = [np.asarray(header, dtype=np.uint32).tobytes()]
        parts += [
            np.ascontiguousarray(ids, dtype=self._dtype).tobytes()
            for ids in (answer.prompt_ids, answer.answer_ids, answer.best_ids)
        ]
        parts.append(np.ascontiguousarray(answer.best_logps, dtype=np.float16).tobytes())
        with self.path.open("ab") as file:
            file.write(b"".join(parts))
            file.flush()
            os.fdatasync(file.fileno())

    def _read(self, file: IO[bytes], size: int) -> Answer | None:
        header = np.frombuffer(file.read(4 * _HEADER_ITEMS), dtype=np.uint32)
        if len(header) < _HEADER_ITEMS:
            return None
        magic, index, kind, num_prompt, num_answer, temperature, top_p, finished = map(int, header)
        if magic != _MAGIC:
            raise EngineError(f"{self.path} is damaged before byte {file.tell()}")
        num_best = num_answer * self.recipe.num_best
        id_bytes = (num_prompt + num_answer + num_best) * self._dtype.itemsize
        if file.tell() + id_bytes + 2 * num_best > size:
            return None

        def take(count: int, dtype: Any) -> npt.NDArray[Any]:
            return np.frombuffer(file.read(count * np.dtype(dtype).itemsize), dtype=dtype)

        shape = (num_answer, self.recipe.num_best)
        return Answer(
            index=index,
            kind=KINDS[kind],
            temperature=temperature / 1000,
            top_p=top_p / 1000,
            is_finished=bool(finished),
            prompt_ids=take(num_prompt, self._dtype),
            answer_ids=take(num_answer, self._dtype),
            best_ids=take(num_best, self._dtype).reshape(shape),
            best_logps=take(num_best, np.float16).reshape(shape),
        )


def _read_recipe(path: Path) -> Recipe | None:
    try:
        return Recipe(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise EngineError(f"{path} is damaged: {error}") from error
