"""A draft model's guesses for the next tokens of a stream: one continuation of its text. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from airdraft.nodes.messages import ChainPart

# Consecutive guesses of one chain, to be sent to a target: the part of the message, and the tokens.
Guesses: TypeAlias = tuple[ChainPart, tuple[int, ...]]


@dataclass(slots=True)
class Guess:
    """chance: that it is right if all before it are. confidence: the draft model's own probability
    of it; None if it was not the model's choice. others: what the model would have said otherwise,
    the likeliest first, and whether a chain goes on from there."""

    token_id: int
    chance: float
    confidence: float | None
    others: list[tuple[int, bool]] = field(default_factory=list)


@dataclass(slots=True)
class Chain:
    """seq_id: its sequence in the engine. cached: how many tokens of the text and the guesses that
    has. number: by which targets know it, once guesses of it were sent."""

    seq_id: int
    cached: int = 0
    guesses: list[Guess] = field(default_factory=list)
    number: int = 0
    # The position up to which guesses were sent; None if none were, or not all before it.
    sent_to: int | None = None

    @property
    def chance(self) -> float:
        """The chance that all its guesses are right."""
        return math.prod(guess.chance for guess in self.guesses)

    def num_right(self, token_ids: Sequence[int]) -> int:
        """Returns how many of its first guesses are these tokens."""
        for place, (guess, token_id) in enumerate(zip(self.guesses, token_ids, strict=False)):
            if guess.token_id != token_id:
                return place
        return min(len(self.guesses), len(token_ids))

    def cut(self, num_cached: int) -> None:
        """Drop the guesses, and of the tokens in the engine those behind num_cached."""
        self.guesses, self.sent_to = [], None
        self.cached = min(self.cached, num_cached)
