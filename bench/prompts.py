"""Generated prompts of chosen lengths: sentences drawn by a seed from a small stock."""

from __future__ import annotations

import random

_SUBJECTS = ("The harbour", "A small engine", "Her notebook", "The committee", "An old map")
_VERBS = ("describes", "needs", "changes", "reports", "measures", "remembers")
_OBJECTS = (
    "the price of copper in 1897",
    "three ways to mend a fence",
    "what happens when water freezes",
    "a list of numbers: 3, 5, 8, 13",
    "how a parser reads brackets",
    "the road between two villages",
)
_TASKS = (
    "Explain why: ",
    "Continue the story. ",
    "Summarise in one sentence: ",
    "Write a short poem about this. ",
    "def mean(values):\n    ",
)
_TOKENS_A_SENTENCE = 13


def make_prompts(count: int, *, seed: int = 1, longest: int = 1500) -> list[str]:
    """Return `count` prompts of about 20 to 60 tokens.

    Among each 100, the first has about `longest` tokens, the second 1,500, and the next two 700.
    """
    source = random.Random(seed)
    prompts = []
    for index in range(count):
        place = index % 100
        num_sentences = source.randint(1, 4)
        if place == 0:
            num_sentences = longest // _TOKENS_A_SENTENCE
        elif place == 1:
            num_sentences = 115
        elif place < 4:
            num_sentences = 54
        sentences = [
            f"{source.choice(_SUBJECTS)} {source.choice(_VERBS)} {source.choice(_OBJECTS)}."
            for _ in range(num_sentences)
        ]
        prompts.append(source.choice(_TASKS) + " ".join(sentences))
    return prompts
