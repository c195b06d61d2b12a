"""Guesses of draft nodes for one stream that have not been compared yet. Pure."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from airdraft.nodes.engine.protocol import common_prefix
from airdraft.nodes.messages import CHANCE_STEPS, MAX_WINDOW, ChainPart

# Chains that are kept of a stream. A draft node goes on with fewer.
_MOST_CHAINS: Final = 8


@dataclass(slots=True)
class GuessFates:
    """Counts of guesses since the last commit.

    num_compared: positions for which there were guesses whose chains had been right until then.
    num_right: those for which the chain that promised most was right. num_other: those for which
    it was wrong, and another chain right. num_late: guesses that arrived after the pass that could
    have used them.
    """

    num_compared: int = 0
    num_right: int = 0
    num_other: int = 0
    num_late: int = 0


@dataclass(slots=True)
class _Chain:
    """end: the position after its last guess. token_ids: (g,) those of its guesses that follow the
    committed tokens. chances: (g,) chance of each to be accepted if all before it are."""

    end: int
    token_ids: list[int] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)

    @property
    def promise(self) -> float:
        """The tokens that are expected to be accepted."""
        promised: list[float] = list(itertools.accumulate(self.chances, operator.mul))
        return sum(promised)


@dataclass(slots=True)
class GuessBuffer:
    """The chains that have been right so far. Several are for different outcomes."""

    fates: GuessFates = field(default_factory=GuessFates)
    # The length of the text for which they are.
    _length: int = 0
    _chains: dict[int, _Chain] = field(default_factory=dict)
    # The highest follow number, and the highest chain number of it: a chain that is neither newer
    # nor among the chains was wrong, or lost a part.
    _newest: tuple[int, int] = (0, 0)
    # The position up to which guesses that came in time, or too late, have been counted.
    _counted: int = 0

    def __bool__(self) -> bool:
        return any(chain.token_ids for chain in self._chains.values())

    def take(self, part: ChainPart, token_ids: Sequence[int], committed: Sequence[int]) -> None:
        """Add guesses of a part, or the first of them, unless they are useless.

        committed: the tokens of the stream. Guesses are useless if their chain is over, if they do
        not continue the guesses here, or if they are further ahead than a draft node may guess.
        """
        self.compare(committed)
        length, end = len(committed), part.start + len(token_ids)
        follow, newest = self._newest
        if part.follow < follow:
            return
        if part.follow > follow:
            self._chains, newest = {}, -1
        self._newest = part.follow, max(newest, part.chain)
        chain = self._chains.pop(part.chain, None)
        if chain is None and part.chain > newest and part.start <= length:
            chain = _Chain(part.start)
        # A chain that begins beyond the committed tokens belongs to another text.
        if chain is None or part.start != chain.end or end > length + MAX_WINDOW:
            return
        known = committed[part.start : end]
        num_right = common_prefix(tuple(token_ids), tuple(known))
        self._count_late(part.start, len(known), num_right)
        self._counted = max(self._counted, end)
        if num_right < len(known):
            return
        self._chains[part.chain] = chain
        chain.end = end
        chain.token_ids += token_ids[num_right:]
        chances = part.chances[num_right : len(token_ids)]
        chain.chances += [step / CHANCE_STEPS for step in chances]
        if len(self._chains) > _MOST_CHAINS:
            # First goes what has no guesses left, and of that the oldest.
            worst = min(self._chains.items(), key=lambda item: (item[1].promise, item[1].end))
            del self._chains[worst[0]]

    def _count_late(self, start: int, num_late: int, num_right: int) -> None:
        """Count guesses for positions that have passed, of which the first ones were right."""
        first = max(0, self._counted - start)
        self.fates.num_late += max(0, num_late - first)
        self.fates.num_right += max(0, num_right - first)
        self.fates.num_compared += max(0, min(num_late, num_right + 1) - first)

    def compare(self, committed: Sequence[int]) -> None:
        """Compare guesses with the committed tokens, count the results and remove right guesses."""
        for position in range(self._length, len(committed)):
            token_id = committed[position]
            told = {n: chain for n, chain in self._chains.items() if chain.token_ids}
            if not told:
                continue
            right = [n for n, chain in told.items() if chain.token_ids[0] == token_id]
            is_right = max(told, key=lambda number: told[number].promise) in right
            self.fates.num_compared += 1
            self.fates.num_right += is_right
            self.fates.num_other += bool(right) and not is_right
            for number, chain in told.items():
                if number in right:
                    del chain.token_ids[0], chain.chances[0]
                else:
                    del self._chains[number]
            if not right:
                # What comes late for the next positions belongs to another chain.
                self._counted = position + 1
        self._length = len(committed)

    def after(self, length: int) -> tuple[list[int], list[float]]:
        """Returns the guesses that follow `length` committed tokens, of the chain that promises
        most, and the chance of each if all before it are right."""
        if self._length != length or not self._chains:
            return [], []
        best = max(self._chains.values(), key=lambda chain: chain.promise)
        return best.token_ids, best.chances
