"""Many varied chat prompts: templates filled with topics and passages, by number and seed.

Some prompts are left to the target itself (`SelfPrompt`): given the start of a user's turn it
writes what users of its kind of training ask.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

# How often a prompt is of a kind; "self" is written by the target, the others here.
_KINDS = (
    ("self", 0.45),
    ("explain", 0.09),
    ("list", 0.08),
    ("question", 0.09),
    ("code", 0.06),
    ("write", 0.09),
    ("chat", 0.05),
    ("summarise", 0.045),
    ("rewrite", 0.045),
)

# Temperature and top-p of an answer, and how often: greedy texts repeat themselves in their own
# way, and a draft has to know it.
_SAMPLINGS = ((0.0, 1.0, 0.4), (0.8, 0.95, 0.4), (1.0, 1.0, 0.2))


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt and how its answer is sampled. text is empty where the target writes it."""

    index: int
    kind: str
    text: str
    temperature: float
    top_p: float


class PromptSource(Protocol):
    """Prompts by number; None once there are no more. sha256: of what they are made from."""

    @property
    def sha256(self) -> str: ...
    def prompt(self, index: int) -> Prompt | None: ...


# Files of a corpus.
TOPICS, PASSAGES = "topics.txt", "passages.txt"
HELD_OUT = "held_out.txt"
# Prompts whose answers copy much of them.
COPYING = "copying.txt"


class HeldOutPrompts:
    """The prompts of a file here, greedy ones first, then the same at T = 0.8, top-p 0.95."""

    def __init__(self, limit: int | None = None, name: str = HELD_OUT) -> None:
        lines = _kinds_and_texts(name)
        # Every so-manyth one, so that a few of each kind are left.
        step = max(1, len(lines) // limit) if limit else 1
        self._lines = lines[::step]
        self.sha256 = _hash_lines(self.texts())

    @property
    def count(self) -> int:
        return 2 * len(self._lines)

    def texts(self) -> list[str]:
        return [text for _kind, text in self._lines]

    def prompt(self, index: int) -> Prompt | None:
        if index >= self.count:
            return None
        warm, place = divmod(index, len(self._lines))
        kind, text = self._lines[place]
        temperature, top_p = (0.8, 0.95) if warm else (0.0, 1.0)
        return Prompt(index, kind, text, temperature, top_p)


class PromptMaker:
    """Prompt number i of a seed: always the same."""

    def __init__(self, topics: list[str], passages: list[str], *, seed: int) -> None:
        general = Path(__file__).with_name("topics.txt").read_text(encoding="utf-8").splitlines()
        self._topics = [*general, *(t for t in topics if t not in set(general))]
        self._num_general = len(general)
        self._passages = passages
        self._templates = _kinds_and_texts("templates.txt")
        self._seed = seed
        self.sha256 = _hash_lines([*topics, *passages])

    @classmethod
    def of_corpus(cls, corpus: Path | None, seed: int) -> PromptMaker:
        """Prompts over the topics and passages of a corpus."""
        return cls(*(_read_lines(corpus, name) for name in (TOPICS, PASSAGES)), seed=seed)

    def prompt(self, index: int) -> Prompt:
        source = random.Random(f"{self._seed}-{index}")
        kinds, weights = zip(*_KINDS, strict=True)
        kind = source.choices(kinds, weights)[0]
        if kind in ("summarise", "rewrite") and not self._passages:
            kind = "explain"
        text = ""
        if kind != "self":
            text = source.choice([t for of, t in self._templates if of == kind]).format(
                topic=self._topic(source),
                other=self._topic(source),
                passage=source.choice(self._passages) if self._passages else "",
            )
            text = text[0].upper() + text[1:]
        *_, shares = zip(*_SAMPLINGS, strict=True)
        temperature, top_p, _share = source.choices(_SAMPLINGS, shares)[0]
        return Prompt(index, kind, text, temperature, top_p)

    def _topic(self, source: random.Random) -> str:
        # Headings are many and technical: two of three topics are general ones.
        if len(self._topics) > self._num_general and source.random() < 1 / 3:
            return self._topics[source.randrange(self._num_general, len(self._topics))]
        return self._topics[source.randrange(self._num_general)]


def _kinds_and_texts(name: str) -> list[tuple[str, str]]:
    """The lines of a file here: a kind of prompt, a tab, and a text with its line breaks as \\n."""
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    lines = (line.split("\t", 1) for line in text.splitlines())
    return [(kind, body.replace("\\n", "\n")) for kind, body in lines]


def _read_lines(folder: Path | None, name: str) -> list[str]:
    """The lines of a file, none if there is no such file."""
    if folder is None or not (folder / name).exists():
        return []
    return (folder / name).read_text(encoding="utf-8").splitlines()


def _hash_lines(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
