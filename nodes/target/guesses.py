"""The guesses that a target keeps for one stream: the newest chain of its draft node. Pure.

A chain is a run of consecutive guesses that a draft node makes without going back. Its guesses
arrive in pieces, before or after the target has reached their positions. A guess is used or
dropped; it never changes a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nodes.messages import MAX_WINDOW


@dataclass(slots=True)
class Seen:
    """Counts of guesses since the last commit.

    num_compared: guesses compared with committed tokens, up to the first wrong one of their chain.
    num_right: how many of these were right. num_late: guesses that arrived after the pass that
    could have used them.
    """

    num_compared: int = 0
    num_right: int = 0
    num_late: int = 0


@dataclass(slots=True)
class GuessBuffer:
    """Guesses of one chain that have not been compared yet.

    number: (follow number, chain number); a higher one is newer. base: position of the first guess.
    chances: (g,) chance of each to be accepted if all before it are. is_broken: a guess was wrong
    or lost, so that no more guesses of this chain can be used.
    """

    number: tuple[int, int] = (0, 0)
    base: int = 0
    token_ids: list[int] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)
    is_broken: bool = True
    seen: Seen = field(default_factory=Seen)

    def take(
        self,
        number: tuple[int, int],
        start: int,
        token_ids: Sequence[int],
        chances: Sequence[float],
        committed: Sequence[int],
    ) -> bool:
        """Add guesses for the positions from `start` on; returns False if they are useless.

        committed: the tokens of the stream. Guesses are useless if their chain is older, if they do
        not continue the guesses here, or if they are further ahead than a draft node may guess.
        """
        if number < self.number:
            return False
        if number > self.number:
            self.number, self.base = number, start
            self.token_ids, self.chances = [], []
            # A chain that begins beyond the committed tokens belongs to another text.
            self.is_broken = start > len(committed)
        is_next = start == self.base + len(self.token_ids)
        is_near = start + len(token_ids) <= len(committed) + MAX_WINDOW
        if self.is_broken or not is_next or not is_near:
            self._break()
            return False
        self.token_ids += token_ids
        self.chances += chances
        self.seen.num_late += max(0, min(len(committed) - start, len(token_ids)))
        self.compare(committed)
        return not self.is_broken

    def compare(self, committed: Sequence[int]) -> None:
        """Compare guesses with the committed tokens, count the results and remove right guesses."""
        num_known = min(len(self.token_ids), len(committed) - self.base)
        for index in range(num_known):
            self.seen.num_compared += 1
            if self.token_ids[index] != committed[self.base + index]:
                self._break()
                return
            self.seen.num_right += 1
        if num_known > 0:
            del self.token_ids[:num_known], self.chances[:num_known]
            self.base += num_known

    def after(self, length: int) -> tuple[list[int], list[float]]:
        """Returns the guesses that follow `length` committed tokens, and the chance of each if all
        before it are right."""
        return (self.token_ids, self.chances) if self.base == length else ([], [])

    def _break(self) -> None:
        self.token_ids, self.chances, self.is_broken = [], [], True
