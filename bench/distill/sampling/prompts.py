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

_TEMPLATES: dict[str, tuple[str, ...]] = {
    "explain": (
        "Explain {topic}.",
        "Explain {topic} to a ten year old.",
        "Can you explain {topic} in simple terms?",
        "What should a beginner know about {topic}?",
        "Describe {topic} in one paragraph.",
        "Give me a short introduction to {topic}.",
        "Why is {topic} important?",
        "Explain the main ideas behind {topic}, step by step.",
        "I never understood {topic}. Help me.",
        "Compare {topic} with {other}.",
    ),
    "list": (
        "List five facts about {topic}.",
        "Give me ten ideas about {topic}.",
        "What are the pros and cons of {topic}?",
        "Make a checklist for {topic}.",
        "Name three common mistakes about {topic}.",
        "List the steps for {topic}.",
        "Give me some tips on {topic}.",
        "Write a bullet list of what matters in {topic}.",
        "What are the most important terms in {topic}? Give a short definition of each.",
    ),
    "question": (
        "What is {topic}?",
        "How does {topic} work?",
        "When did {topic} become popular?",
        "Who should care about {topic}, and why?",
        "What is the difference between {topic} and {other}?",
        "Is {topic} overrated?",
        "What are the benefits of {topic}?",
        "How can I learn more about {topic}?",
        "What would happen without {topic}?",
        "{topic}?",
        "Tell me something surprising about {topic}.",
    ),
    "code": (
        "Write a Python function for {topic}.",
        "Show me a short example program about {topic}.",
        "Write a small script in Python that deals with {topic}, with comments.",
        "How do I implement {topic} in JavaScript?",
        "Write a SQL query about {topic}.",
        "Give me a code snippet for {topic} and explain it line by line.",
        "Write a class in Python that models {topic}.",
        "Write a shell command that helps with {topic}.",
        "What is wrong with a program that ignores {topic}? Show code.",
    ),
    "write": (
        "Write a short story about {topic}.",
        "Write a poem about {topic}.",
        "Write an email to a colleague about {topic}.",
        "Write a blog post about {topic}.",
        "Write a dialogue between two friends about {topic}.",
        "Write the first paragraph of a novel about {topic} and {other}.",
        "Write a speech of one minute about {topic}.",
        "Write a product description about {topic}.",
        "Write an essay that argues for {topic}.",
        "Write a newspaper headline and a first sentence about {topic}.",
    ),
    "chat": (
        "Hi! Can we talk about {topic}?",
        "I am thinking about {topic}. What do you think?",
        "My friend always talks about {topic}. What should I ask her?",
        "Good morning. I need help with {topic}.",
        "I feel tired of {topic}. Any advice?",
        "Recommend me something related to {topic}.",
        "Tell me a joke about {topic}.",
        "You are a teacher. Start a lesson about {topic}.",
        "Let us play a quiz about {topic}. Ask me the first question.",
    ),
    "summarise": (
        "Summarise this text in one sentence:\n\n{passage}",
        "Summarize the following:\n{passage}",
        "{passage}\n\nWhat is the main point of this text?",
        "Give me the key points of this passage as a list.\n\n{passage}",
        "Write a title for this text: {passage}",
        "Based on this text, answer in two sentences what it is about.\n\n{passage}",
    ),
    "rewrite": (
        "Rewrite this text in simpler words:\n\n{passage}",
        "Make this more formal: {passage}",
        "Make this text more friendly and concise.\n\n{passage}",
        "Correct the grammar of this text: {passage}",
        "Rewrite the following as a list of short sentences.\n\n{passage}",
        "Turn this into a question and an answer:\n\n{passage}",
    ),
}

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
        text = Path(__file__).with_name(name).read_text(encoding="utf-8")
        lines = [line.split("\t", 1) for line in text.splitlines()]
        # Every so-manyth one, so that a few of each kind are left.
        step = max(1, len(lines) // limit) if limit else 1
        self._lines = [(kind, body.replace("\\n", "\n")) for kind, body in lines[::step]]
        self.sha256 = _hash_lines(self.texts())

    def texts(self) -> list[str]:
        return [text for _kind, text in self._lines]

    def prompt(self, index: int) -> Prompt | None:
        warm, place = divmod(index, len(self._lines))
        if warm > 1:
            return None
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
            text = source.choice(_TEMPLATES[kind]).format(
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


def _read_lines(folder: Path | None, name: str) -> list[str]:
    """The lines of a file, none if there is no such file."""
    if folder is None or not (folder / name).exists():
        return []
    return (folder / name).read_text(encoding="utf-8").splitlines()


def _hash_lines(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
