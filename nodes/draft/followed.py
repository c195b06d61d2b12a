"""One stream that a draft node follows, with the chains of guesses for it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from airdraft.nodes.engine.rules import NO_RULES
from airdraft.nodes.engine.sampler import Sampler
from airdraft.nodes.messages import CHANCE_STEPS, ChainPart
from airdraft.nodes.worker.stream import StreamSpec, cells_soon
from airdraft.policies.acceptance import GUESS_MEMORY, TRUST

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


@dataclass(slots=True)
class Followed:
    """A stream that a draft node follows.

    token_ids: the committed tokens that were received. chain: what the draft model says next.
    branches: what it would say if the text took other ways (branches.py). kept: how many tokens the
    engine had before the first guess, which is as far as a recurrent model can go back.
    """

    spec: StreamSpec
    token_ids: list[int]
    chain: Chain
    # Its state includes the guesses of the chain.
    sampler: Sampler
    branches: list[Chain] = field(default_factory=list)
    kept: int = 0
    announced: bool = False
    _last_number: int = 0
    _expected: float = 0.0
    _right: float = 0.0

    @property
    def seq_id(self) -> int:
        return self.chain.seq_id

    @property
    def cached(self) -> int:
        """How many tokens the engine has, including guesses."""
        return self.chain.cached

    @property
    def guesses(self) -> list[Guess]:
        return self.chain.guesses

    @property
    def chance(self) -> float:
        """The chance that all its guesses are right."""
        return self.chain.chance

    @property
    def length(self) -> int:
        """The number of tokens, including guesses."""
        return self.end_of(self.chain)

    def end_of(self, chain: Chain) -> int:
        return len(self.token_ids) + len(chain.guesses)

    @property
    def num_missing(self) -> int:
        """Committed tokens to be read, without the last one, which the next guess's step runs."""
        return max(0, len(self.token_ids) - 1 - self.cached)

    @property
    def uncached(self) -> list[int]:
        """The tokens and guesses that are not in the engine's cache."""
        return self.uncached_of(self.chain)

    def uncached_of(self, chain: Chain) -> list[int]:
        start, known = chain.cached, len(self.token_ids)
        guesses = chain.guesses[max(0, start - known) :]
        return self.token_ids[start:] + [guess.token_id for guess in guesses]

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
    def has_rules(self) -> bool:
        """Whether what may come next depends on the text before, as the sampler records it."""
        return self.spec.sampling.rules != NO_RULES

    def has_room(self, chain: Chain) -> bool:
        """Whether one more guess could be committed; the last token of a text is never a guess."""
        return self.end_of(chain) < self.spec.num_prompt_tokens + self.spec.max_tokens - 1

    def corrected(self, chance: float) -> float:
        """Returns the chance of a guess of this stream, given the calibrated chance."""
        factor = (self._right + TRUST) / (self._expected + TRUST)
        return min(1.0, chance * factor)

    def judged(self, chance: float, *, is_right: bool) -> None:
        """Learn from a guess that was compared. chance: its chance by the present calibration."""
        self._expected = GUESS_MEMORY * self._expected + chance
        self._right = GUESS_MEMORY * self._right + is_right

    def add(self, guess: Guess) -> None:
        """Append a guess to the chain."""
        self.guesses.append(guess)
        self.sampler.push(guess.token_id)

    def advance(self, new_token_ids: tuple[int, ...]) -> tuple[list[Chain], Chain | None]:
        """Append committed tokens.

        The branches that they disagree with go, and are returned. If they disagree with the chain,
        or its guesses do not reach as far, its guesses are those of a branch from now on, and that
        is returned, too; without one there are none, and a new chain begins. The part of the cache
        that is still right stays.
        """
        before, count = len(self.token_ids), len(new_token_ids)
        num_right = self.chain.num_right(new_token_ids)
        known, self.branches, gone = self.branches, list[Chain](), list[Chain]()
        for branch in known:
            is_over = branch.num_right(new_token_ids) < count
            (gone if is_over else self.branches).append(branch)
        self.token_ids += new_token_ids
        heir: Chain | None = None
        if num_right < count:
            self.sampler.cut(before + num_right)
            self.sampler.extend(new_token_ids[num_right:])
            self.chain.cut(before + num_right)
            if self.branches:
                heir = max(self.branches, key=lambda each: each.chance * len(each.guesses))
                self.branches = [each for each in self.branches if each is not heir]
                self.chain.guesses = heir.guesses
                self.chain.number, self.chain.sent_to = heir.number, heir.sent_to
        for chain in (self.chain, *self.branches):
            del chain.guesses[:count]
            if chain.sent_to is not None and chain.sent_to < len(self.token_ids):
                # Some guesses were committed before they were sent. The target lacks them, so the
                # chain has a gap.
                chain.sent_to = None
        return gone, heir

    def take_unsent(self) -> list[Guesses]:
        """Mark the guesses that were not sent yet as sent, and return them.

        A new chain begins after the committed tokens. So a branch repeats the guesses before it.
        """
        known, parts = len(self.token_ids), list[Guesses]()
        for chain in (self.chain, *self.branches):
            start = known if chain.sent_to is None else chain.sent_to
            new = chain.guesses[start - known :]
            if not new:
                continue
            if chain.sent_to is None:
                self._last_number += 1
                chain.number = self._last_number
            chain.sent_to = self.end_of(chain)
            chances = bytes(round(CHANCE_STEPS * guess.chance) for guess in new)
            place = self.spec.stream_id, self.spec.generation, chain.number, start
            parts.append((ChainPart(*place, chances), tuple(guess.token_id for guess in new)))
        return parts

    @property
    def live(self) -> frozenset[int]:
        """The numbers of the chains whose guesses may still be right."""
        return frozenset(each.number for each in (self.chain, *self.branches) if each.guesses)

    def drop_guesses(self) -> list[Chain]:
        """Drop all guesses, and return the branches. The caller frees their cells and that of the
        last committed token, which runs again for the next guess."""
        self.sampler.cut(len(self.token_ids))
        self.chain.cut(len(self.token_ids) - 1)
        gone, self.branches = self.branches, []
        return gone


def cells_of(spec: StreamSpec, num_tokens: int) -> int:
    """Returns the cells that admission counts for a stream of which num_tokens were received.

    They include tokens that are yet to be received, and some growth.
    """
    known = max(num_tokens, spec.num_prompt_tokens, spec.num_known)
    return cells_soon(known, spec.max_tokens - (known - spec.num_prompt_tokens))
