"""The guesses that a target keeps for one stream: the newest chain that a draft node sends. Pure.

A chain is what a draft node guesses without going back: consecutive tokens from a position on. Its
guesses arrive in pieces, whenever they are made, before or after the target has come to their
positions. Whatever arrives can only be used or dropped; no guess ever changes a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nodes.messages import MAX_WINDOW


@dataclass(slots=True)
class Seen:
    """What has become of guesses: how many were compared with committed tokens up to the first
    wrong one of their chain, how many of these were right, and how many came after the pass that
    could have used them."""

    num_compared: int = 0
    num_right: int = 0
    num_late: int = 0


@dataclass(slots=True)
class GuessBuffer:
    """Guesses of one chain that have not been compared yet. number: (follow number, chain number),
    higher is newer. base: position of the first of them. chances: (g,) chance of each to be
    accepted if all before it are. is_broken: a guess was wrong, or some were lost: nothing of this
    chain can be used any more.
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
        """Add guesses for the positions from start on; False if they are of no use.

        committed: the tokens of the stream. Guesses of an older chain, what does not follow the
        guesses that are here, and what is further ahead than a draft node may be, are of no use.
        """
        if number < self.number:
            return False
        if number > self.number:
            self.number, self.base = number, start
            self.token_ids, self.chances = [], []
            # Whoever knows more than is committed here speaks of another text.
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
        """See what is known by now of the guesses that are here; right ones are used up by it."""
        num_known = min(len(self.token_ids), len(committed) - self.base)
        for place in range(num_known):
            self.seen.num_compared += 1
            if self.token_ids[place] != committed[self.base + place]:
                self._break()
                return
            self.seen.num_right += 1
        if num_known > 0:
            del self.token_ids[:num_known], self.chances[:num_known]
            self.base += num_known

    def after(self, length: int) -> tuple[list[int], list[float]]:
        """Guesses for the positions from `length` on, the number of committed tokens, and the
        chance of each if all before it are right."""
        return (self.token_ids, self.chances) if self.base == length else ([], [])

    def _break(self) -> None:
        self.token_ids, self.chances, self.is_broken = [], [], True
