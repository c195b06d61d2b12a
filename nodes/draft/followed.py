"""One stream that a draft node follows, and how sure its guesses are. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from nodes.engine.sampler import Sampler
from nodes.worker.cells import cells_soon
from nodes.worker.stream import StreamId, StreamSpec

# A stream's own guesses correct the calibration of its draft model: what is expected of so many
# guesses is believed beside them, and newer ones count more.
_BELIEVED_GUESSES: Final = 6.0
_MEMORY: Final = 0.97
# No text is so easy that a guess of it is sure.
_MOST_CHANCE: Final = 0.99
# Passes in a row that took none of its guesses, although some were there in time, after which a
# stream is guessed for only to measure, once in so many tokens; and right guesses in a row after
# which it is guessed for again.
_MOST_UNUSED: Final = 8
_MEASURED_EVERY: Final = 8
_AGREEMENTS: Final = 3


@dataclass(frozen=True, slots=True)
class Guesses:
    """Guesses of one step or more, for a target. start: position of the first one. chances: of each
    to be accepted if those before it are. follow, chain: as in ChainPart."""

    stream_id: StreamId
    follow: int
    chain: int
    start: int
    token_ids: tuple[int, ...]
    chances: tuple[float, ...]


@dataclass(slots=True)
class Followed:
    """token_ids: committed ones, as far as they are known here; guesses follow them. confidences:
    (g,) the draft model's own probability of each guess; chances: (g,) calibrated.

    cached: tokens in the engine's cache, which are token_ids and guesses from the beginning on.
    """

    spec: StreamSpec
    seq_id: int
    token_ids: list[int]
    # Follows the guesses, too.
    sampler: Sampler
    cached: list[int] = field(default_factory=list)
    guesses: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)
    announced: bool = False
    chain: int = 0
    # Position up to which guesses of the chain were sent; None where a new chain has to begin.
    sent_to: int | None = None
    num_unused: int = 0
    num_agreed: int = 0
    measured_at: int = 0
    _expected: float = 0.0
    _right: float = 0.0

    @property
    def length(self) -> int:
        """Tokens with the guesses."""
        return len(self.token_ids) + len(self.guesses)

    @property
    def num_missing(self) -> int:
        """Committed tokens that are still to be read; the last one waits for a guess."""
        return max(0, len(self.token_ids) - 1 - len(self.cached))

    @property
    def is_behind(self) -> bool:
        return self.num_missing > 0

    @property
    def is_known(self) -> bool:
        """Whether it has been told all of the text that there was when it began to follow."""
        return len(self.token_ids) >= max(self.spec.num_prompt_tokens, self.spec.num_known)

    @property
    def cells_soon(self) -> int:
        return cells_of(self.spec, len(self.token_ids))

    @property
    def chance(self) -> float:
        """That all its guesses are right."""
        return math.prod(self.chances)

    @property
    def has_room(self) -> bool:
        """Whether a guess more may be committed: the last token of a text is never a guess."""
        return self.length < self.spec.num_prompt_tokens + self.spec.max_tokens - 1

    @property
    def is_open(self) -> bool:
        """Whether it is guessed for now, rather than measured now and then."""
        if self.num_unused < _MOST_UNUSED:
            return True
        return not self.guesses and len(self.token_ids) >= self.measured_at + _MEASURED_EVERY

    def corrected(self, chance: float) -> float:
        """The chance of a guess of this stream, by what the calibration says."""
        factor = (self._right + _BELIEVED_GUESSES) / (self._expected + _BELIEVED_GUESSES)
        return min(_MOST_CHANCE, chance * factor)

    def judged(self, chance: float, *, is_right: bool) -> None:
        """A guess has turned out; chance: as the calibration has it now."""
        self._expected = _MEMORY * self._expected + chance
        self._right = _MEMORY * self._right + is_right
        self.num_agreed = self.num_agreed + 1 if is_right else 0
        if self.num_agreed >= _AGREEMENTS:
            self.num_unused = 0

    def note_use(self, *, was_there: bool, num_used: int) -> None:
        """A pass of the target is over: whether guesses were there for it, and how many it took."""
        if num_used:
            self.num_unused = 0
        elif was_there:
            self.num_unused += 1

    def add(self, token_id: int, confidence: float, chance: float) -> None:
        """Guess the next token."""
        self.guesses.append(token_id)
        self.confidences.append(confidence)
        self.chances.append(chance)
        self.sampler.push(token_id)
        if len(self.guesses) == 1:
            self.measured_at = len(self.token_ids)

    def advance(self, new_token_ids: tuple[int, ...]) -> int:
        """Take committed tokens; returns how many of them were guessed right.

        Where the guesses say otherwise, or do not go so far, it goes back and begins a new chain.
        What of the cache is right stays there.
        """
        before = len(self.token_ids)
        num_right = 0
        for guess, token_id in zip(self.guesses, new_token_ids, strict=False):
            if guess != token_id:
                break
            num_right += 1
        self.token_ids += new_token_ids
        if num_right == len(new_token_ids):
            for of_guesses in (self.guesses, self.confidences, self.chances):
                del of_guesses[:num_right]
        else:
            self.sampler.cut(before + num_right)
            self.sampler.extend(new_token_ids[num_right:])
            self.guesses, self.confidences, self.chances = [], [], []
            self.sent_to = None
            del self.cached[before + num_right :]
        if self.sent_to is not None and self.sent_to < len(self.token_ids):
            # Some were never sent, and nobody needs them any more: the target lacks them.
            self.sent_to = None
        return num_right

    def unsent(self) -> Guesses | None:
        """The guesses that nobody has been sent, which count as sent then; None if there are none.

        A new chain begins after the committed tokens.
        """
        start = len(self.token_ids) if self.sent_to is None else self.sent_to
        place = start - len(self.token_ids)
        if place >= len(self.guesses):
            return None
        if self.sent_to is None:
            self.chain += 1
        self.sent_to = self.length
        return Guesses(
            self.spec.stream_id,
            self.spec.generation,
            self.chain,
            start,
            tuple(self.guesses[place:]),
            tuple(self.chances[place:]),
        )

    def drop_guesses(self) -> None:
        """Forget what was guessed. The last committed token is run again for the next guess; its
        cell and those of the guesses are given up by the caller."""
        self.sampler.cut(len(self.token_ids))
        self.guesses, self.confidences, self.chances = [], [], []
        self.sent_to = None
        del self.cached[len(self.token_ids) - 1 :]


def cells_of(spec: StreamSpec, num_tokens: int) -> int:
    """Cells that admission counts for a stream of which so many tokens have been told, some growth
    and those that are yet to be told included."""
    known = max(num_tokens, spec.num_prompt_tokens, spec.num_known)
    return cells_soon(known, spec.max_tokens - (known - spec.num_prompt_tokens))
