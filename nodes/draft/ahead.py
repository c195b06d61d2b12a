"""Guesses of the next round, made while those of this one are verified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nodes.draft.outlook import Outlook

# Of use only if everything so far is accepted: below this chance more of it is hardly ever.
_LEAST_CHANCE = 0.3


@dataclass(slots=True)
class Ahead:
    """What a stream's draft says after its guesses: the target's own next token, then guesses.

    token_ids, confidences: drafted ahead so far. num_wanted: tokens of a whole next round.
    """

    token_ids: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    num_wanted: int = 0
    _chance: float = 1.0

    @property
    def goes_on(self) -> bool:
        return len(self.token_ids) < self.num_wanted

    @property
    def num_drafted(self) -> int:
        return len(self.token_ids)

    def begin(self, outlook: Outlook, gamma: int) -> None:
        """A round of up to gamma guesses was answered: go on where they are likely enough."""
        self.stop()
        self._chance = outlook.chance
        if not outlook.has_stopped and outlook.chance >= _LEAST_CHANCE:
            self.num_wanted = gamma + 1

    def add(self, token_id: int, confidence: float, chance: float, *, is_end: bool) -> None:
        """The next token; chance: that it is accepted if all before it are."""
        self.token_ids.append(token_id)
        self.confidences.append(confidence)
        self._chance *= chance
        if is_end or self._chance < _LEAST_CHANCE:
            self.num_wanted = 0

    def stop(self) -> None:
        self.token_ids, self.confidences, self.num_wanted = [], [], 0

    def after(self, guesses: Sequence[int], committed: Sequence[int]) -> list[tuple[int, float]]:
        """Guesses for after the committed tokens, with their confidences, and an end of it.

        None but where all guesses and the first token after them are what was committed.
        """
        found = list(zip(self.token_ids, self.confidences, strict=True))
        is_hit = bool(found) and [*guesses, found[0][0]] == list(committed)
        self.stop()
        return found[1:] if is_hit else []
