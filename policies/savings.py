"""Measures the share of a target's time that a draft model in its process saves. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Tokens of a stream over which times are forgotten. The tokens of a pass with guesses scatter by
# about one, so the saving of the 2,000 passes of so many tokens has an error of some 2 %.
_MEMORY: Final = 4000.0
# Tokens of a stream after which a draft has had its trial: as many as count. A draft that does not
# pay makes hardly any steps, so all that a longer trial costs is memory.
_TRIAL: Final = 4000
# A draft that saves less of the time gives its memory back. It is what such a trial can tell from
# nothing.
_LEAST: Final = 0.02


@dataclass(slots=True)
class Savings:
    """Sums over passes, with forgetting.

    saved_s: seconds that guesses saved, after those of the steps that made them. all_s: seconds of
    passes and steps. num_tokens: tokens that a stream got on average, never forgotten.
    """

    saved_s: float = 0.0
    all_s: float = 0.0
    num_tokens: float = 0.0

    def passed(
        self, seconds: float, steps_s: float, tokens: float, plain_s: float, *, is_guessed: bool
    ) -> None:
        """Count a pass. steps_s: seconds of the draft's steps before it, in which it guessed or
        read. tokens: that the pass committed to a stream, on average. plain_s: seconds of the same
        pass without guesses. is_guessed: whether it had guesses of the draft.
        """
        kept = max(0.0, 1.0 - tokens / _MEMORY)
        saved_s = tokens * plain_s - seconds if is_guessed else 0.0
        self.saved_s = kept * self.saved_s + saved_s - steps_s
        self.all_s = kept * self.all_s + seconds + steps_s
        self.num_tokens += tokens

    @property
    def share(self) -> float:
        """The share of the time without the draft that it saved; negative if it cost some."""
        plain_s = self.all_s + self.saved_s
        return self.saved_s / plain_s if plain_s > 0.0 else 0.0

    @property
    def has_been_tried(self) -> bool:
        return self.num_tokens >= _TRIAL

    @property
    def is_low(self) -> bool:
        """Whether the draft has had a fair trial and is not worth its memory."""
        return self.has_been_tried and self.share < _LEAST
