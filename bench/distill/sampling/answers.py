"""A folder of sampled answers: a file each, so that sampling can stop and go on anywhere."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from airdraft.nodes.engine.protocol import EngineError
from airdraft.nodes.engine.sampling import Sampling

TokenIds = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What makes answers of one folder alike; sampling only goes on with the same recipe."""

    model_hash: str
    vocab_hash: str
    num_vocab: int
    num_best: int
    max_answer: int
    seed: int
    prompts_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One prompt and the target's answer, sampled with the noise of `seed` and `index`.

    prompt_ids: (p,); answer_ids: (n,); best_ids, best_logps: (n, num_best), the target's view of
    each answer position at T = 1, best first.
    """

    index: int
    kind: str
    seed: int
    temperature: float
    top_p: float
    prompt_ids: TokenIds
    answer_ids: TokenIds
    best_ids: TokenIds
    best_logps: npt.NDArray[np.float16]

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, top_p=self.top_p, seed=self.seed, choice=self.index)


class AnswerFolder:
    """A file for each answer, and recipe.json, which says how they were made."""

    def __init__(self, path: Path, recipe: Recipe | None = None) -> None:
        self.path = path
        manifest = path / "recipe.json"
        if manifest.exists():
            try:
                self.recipe = Recipe(**json.loads(manifest.read_text()))
            except (ValueError, TypeError) as error:
                raise EngineError(f"{manifest} is damaged: {error}") from error
            if recipe not in (None, self.recipe):
                raise EngineError(f"{path} holds answers of another recipe: choose another folder")
        elif recipe is None:
            raise EngineError(f"no answers in {path}: run `python -m bench distill sample`")
        else:
            self.recipe = recipe
            path.mkdir(parents=True, exist_ok=True)
            manifest.write_text(json.dumps(asdict(recipe), indent=1) + "\n")

    def __iter__(self) -> Iterator[Answer]:
        """All answers in the order of their prompts."""
        for path in sorted(self.path.glob("*.npz")):
            try:
                with np.load(path) as arrays:
                    found = {name: a if a.ndim else a.item() for name, a in arrays.items()}
            except (OSError, ValueError, zipfile.BadZipFile) as error:
                raise EngineError(f"{path} is damaged: {error}") from error
            yield Answer(**found)

    def add(self, answer: Answer) -> None:
        # A kill leaves the whole file or none that is read.
        unfinished = self.path / "unfinished"
        with unfinished.open("wb") as file:
            np.savez_compressed(file, **asdict(answer))
        unfinished.replace(self.path / f"{answer.index:08}.npz")
