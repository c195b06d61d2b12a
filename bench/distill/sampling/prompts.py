"""Many varied chat prompts: templates filled with topics and passages, by number and seed.

Some prompts are left to the target itself (kind `self`): given the start of a user's turn it
writes what users of its kind of training ask.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random

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


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts in the order of their numbers. sha256: of what they are made from."""

    sha256: str
    every: Iterable[Prompt]


# Files of a corpus.
TOPICS, PASSAGES = "topics.txt", "passages.txt"
HELD_OUT = "held_out.txt"
# Prompts whose answers copy much of them.
COPYING = "copying.txt"


def held_out_texts(name: str = HELD_OUT, limit: int | None = None) -> list[tuple[str, str]]:
    """Returns the kinds and texts of a file here: all, or as few of each kind as `limit` allows."""
    lines = _kinds_and_texts(name)
    return lines[:: max(1, len(lines) // limit) if limit else 1]


def prompts_of_corpus(corpus: Path | None, seed: int) -> Prompts:
    """Returns prompts without end over the topics and passages of a corpus, if there is one."""
    files = [corpus / name if corpus else Path() for name in (TOPICS, PASSAGES)]
    return prompts_over(*(_lines_of(f) if f.is_file() else [] for f in files), seed=seed)


def prompts_over(topics: Sequence[str], passages: Sequence[str], *, seed: int) -> Prompts:
    """Returns prompts without end, each of which depends on its number and the seed alone."""
    return Prompts(_hash_lines([*topics, *passages]), _drawn(topics, passages, seed))


def _drawn(topics: Sequence[str], passages: Sequence[str], seed: int) -> Iterator[Prompt]:
    general = _lines_of(Path(__file__).with_name("topics.txt"))
    headings = [topic for topic in topics if topic not in set(general)]
    templates = _kinds_and_texts("templates.txt")
    kinds, weights = zip(*_KINDS, strict=True)
    *_, shares = zip(*_SAMPLINGS, strict=True)

    def topic(source: Random) -> str:
        # Headings are many and technical: two of three topics are general ones.
        return source.choice(headings if headings and source.random() < 1 / 3 else general)

    for index in count():
        source = Random(f"{seed}-{index}")
        kind, text = source.choices(kinds, weights)[0], ""
        if kind in ("summarise", "rewrite") and not passages:
            kind = "explain"
        if kind != "self":
            text = source.choice([t for of, t in templates if of == kind]).format(
                topic=topic(source),
                other=topic(source),
                passage=source.choice(passages) if passages else "",
            )
            text = text[0].upper() + text[1:]
        temperature, top_p, _share = source.choices(_SAMPLINGS, shares)[0]
        yield Prompt(index, kind, text, temperature, top_p)


def _kinds_and_texts(name: str) -> list[tuple[str, str]]:
    """The lines of a file here: a kind of prompt, a tab, and a text with its line breaks as \\n."""
    lines = (line.split("\t", 1) for line in _lines_of(Path(__file__).with_name(name)))
    return [(kind, body.replace("\\n", "\n")) for kind, body in lines]


def _lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _hash_lines(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
