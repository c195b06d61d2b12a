"""One stream that a draft node follows, with its guesses and their chances. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeAlias

from airdraft.nodes.engine.sampler import Sampler
from airdraft.nodes.messages import CHANCE_STEPS, ChainPart
from airdraft.nodes.worker.stream import StreamSpec, cells_soon
from airdraft.policies.acceptance import GUESS_MEMORY, TRUST

# Consecutive guesses of one chain, to be sent to a target: the part of the message, and the tokens.
Guesses: TypeAlias = tuple[ChainPart, tuple[int, ...]]


@dataclass(slots=True)
class Followed:
    """A stream that a draft node follows.

    token_ids: the committed tokens that were received. guesses: (g,) tokens that follow them.
    confidences: (g,) the draft model's own probabilities. chances: (g,) calibrated chances. cached:
    the tokens in the engine's cache, a prefix of token_ids + guesses. kept: how many of them it
    had before the first guess, which is as far as a recurrent model can go back.
    """

    spec: StreamSpec
    seq_id: int
    token_ids: list[int]
    # Its state includes the guesses.
    sampler: Sampler
    cached: list[int] = field(default_factory=list)
    guesses: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)
    kept: int = 0
    announced: bool = False
    chain: int = 0
    # The position up to which guesses of the chain were sent; None if a new chain has to begin.
    sent_to: int | None = None
    _expected: float = 0.0
    _right: float = 0.0

    @property
    def length(self) -> int:
        """The number of tokens, including guesses."""
        return len(self.token_ids) + len(self.guesses)

    @property
    def num_missing(self) -> int:
        """Committed tokens to be read, without the last one, which the next guess's step runs."""
        return max(0, len(self.token_ids) - 1 - len(self.cached))

    @property
    def uncached(self) -> list[int]:
        """The tokens and guesses that are not in the engine's cache."""
        start, known = len(self.cached), len(self.token_ids)
        return self.token_ids[start:] + self.guesses[max(0, start - known) :]

    @property
    def is_behind(self) -> bool:
        return self.num_missing > 0

    @property
    def is_known(self) -> bool:
        """Whether the whole text that existed when the following began has been received."""
        return len(self.token_ids) >= max(self.spec.num_prompt_tokens, self.spec.num_known)

    @property
    def cells_soon(self) -> int:
        return cells_of(self.spec, len(self.token_ids))

    @property
    def chance(self) -> float:
        """The chance that all its guesses are right."""
        return math.prod(self.chances)

    @property
    def has_room(self) -> bool:
        """Whether one more guess could be committed; the last token of a text is never a guess."""
        return self.length < self.spec.num_prompt_tokens + self.spec.max_tokens - 1

    def corrected(self, chance: float) -> float:
        """Returns the chance of a guess of this stream, given the calibrated chance."""
        factor = (self._right + TRUST) / (self._expected + TRUST)
        return min(1.0, chance * factor)

    def judged(self, chance: float, *, is_right: bool) -> None:
        """Learn from a guess that was compared. chance: its chance by the present calibration."""
        self._expected = GUESS_MEMORY * self._expected + chance
        self._right = GUESS_MEMORY * self._right + is_right

    def add(self, token_id: int, confidence: float, chance: float) -> None:
        """Append a guess."""
        self.guesses.append(token_id)
        self.confidences.append(confidence)
        self.chances.append(chance)
        self.sampler.push(token_id)

    def advance(self, new_token_ids: tuple[int, ...]) -> None:
        """Append committed tokens.

        If a guess was wrong, or the guesses do not reach as far, all guesses are dropped and a new
        chain begins. The part of the cache that is still right stays.
        """
        before = len(self.token_ids)
        num_right = 0
        for guess, token_id in zip(self.guesses, new_token_ids, strict=False):
            if guess != token_id:
                break
            num_right += 1
        self.token_ids += new_token_ids
        if num_right == len(new_token_ids):
            for values in (self.guesses, self.confidences, self.chances):
                del values[:num_right]
        else:
            self.sampler.cut(before + num_right)
            self.sampler.extend(new_token_ids[num_right:])
            self.guesses, self.confidences, self.chances = [], [], []
            self.sent_to = None
            del self.cached[before + num_right :]
        if self.sent_to is not None and self.sent_to < len(self.token_ids):
            # Some guesses were committed before they were sent. The target lacks them, so the chain
            # has a gap.
            self.sent_to = None

    def take_unsent(self) -> Guesses | None:
        """Mark the guesses that were not sent yet as sent, and return them, or None.

        A new chain begins after the committed tokens.
        """
        start = len(self.token_ids) if self.sent_to is None else self.sent_to
        index = start - len(self.token_ids)
        if index >= len(self.guesses):
            return None
        if self.sent_to is None:
            self.chain += 1
        self.sent_to = self.length
        chances = bytes(round(CHANCE_STEPS * chance) for chance in self.chances[index:])
        part = ChainPart(self.spec.stream_id, self.spec.generation, self.chain, start, chances)
        return part, tuple(self.guesses[index:])

    def drop_guesses(self) -> None:
        """Drop all guesses. The caller frees their cells and that of the last committed token,
        which runs again for the next guess."""
        self.sampler.cut(len(self.token_ids))
        self.guesses, self.confidences, self.chances = [], [], []
        self.sent_to = None
        del self.cached[len(self.token_ids) - 1 :]


def cells_of(spec: StreamSpec, num_tokens: int) -> int:
    """Returns the cells that admission counts for a stream of which num_tokens were received.

    They include tokens that are yet to be received, and some growth.
    """
    known = max(num_tokens, spec.num_prompt_tokens, spec.num_known)
    return cells_soon(known, spec.max_tokens - (known - spec.num_prompt_tokens))
