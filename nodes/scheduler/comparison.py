"""Compares decoding with and without draft nodes, to find whether their guesses pay. Pure.

A guess costs more than its place in a pass. A draft node on the target's own machine takes time of
its cores and memory, and so do the messages; no cost table contains this. Therefore draft nodes
pause for some passes from time to time, and the token rates with and without them are compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

# Passes of a pause. The first of them are left out, because draft nodes still guess ahead on the
# text that they have received.
_PAUSE_PASSES: Final = 24
_LEFT_OUT_PASSES: Final = 8
# Passes with draft nodes before the first comparison, and before each later one that follows a time
# without them.
_TRIAL_PASSES: Final = 32
# Trials of the mode that seems slower may cost this share of all tokens.
_MOST_TRIAL_COST: Final = 0.01
# The share after the first comparison that draft nodes lose, for one stream. It is halved after
# each further one, and divided by the number of streams, because their passes say as much more:
# chats of four streams had 0.91 of plain decoding with 0.03, and 0.94 and 0.97 with 0.01. The first
# trial is the worst, because draft nodes have not yet learnt which guesses are right: chats with
# the real pair had 0.90 of the speed of plain decoding in the first 32 passes, 1.49 in later ones.
_FIRST_TRIAL_COST: Final = 0.03
# Passes that the averages span. Over 64 passes of one stream the mean number of tokens a pass has a
# scatter of 5 %.
_MEMORY: Final = 256.0


class Speculation(Enum):
    """Whether draft nodes guess.

    Unless it is ON, they receive no commits and follow no further streams. PAUSED: for some passes.
    OFF: until guesses are tried again.
    """

    ON = "on"
    PAUSED = "paused"
    OFF = "off"


@dataclass(slots=True)
class RateSums:
    """Sums of tokens a stream, of calibrated passes, and of passes; older passes count less."""

    tokens: float = 1.0
    passes: float = 1.0
    num: float = 1.0

    def add(self, tokens: float, passes: float) -> None:
        kept = 1.0 - 1.0 / _MEMORY
        self.tokens = kept * self.tokens + tokens
        self.passes = kept * self.passes + passes
        self.num = kept * self.num + 1.0

    @property
    def rate(self) -> float:
        return self.tokens / self.passes


class Comparisons:
    """One comparison for each range of stream counts: 1, 2 to 3, 4 to 7 and so on.

    Guesses that pay for one stream may not pay for many.
    """

    def __init__(self) -> None:
        # By the bit length of the number of streams.
        self._found: dict[int, Comparison] = {}

    def of(self, num_streams: int) -> Comparison:
        """Returns the comparison for this number of streams."""
        # The last pass of the last stream is reported when there is none any more.
        cost = _FIRST_TRIAL_COST / max(1, num_streams)
        return self._found.setdefault(num_streams.bit_length(), Comparison(cost))


@dataclass(slots=True)
class Comparison:
    """Decides whether draft nodes guess, for one range of stream counts.

    first_trial_cost: of the trial after the first comparison that they lose.
    """

    first_trial_cost: float = _FIRST_TRIAL_COST
    speculation: Speculation = Speculation.ON
    _guesses: RateSums = field(default_factory=RateSums)
    # Before the first pause this holds the calibrated rate of plain decoding: one token a pass.
    _plain: RateSums = field(default_factory=RateSums)
    # Passes until the next change.
    num_left: float = _TRIAL_PASSES
    # The gain when draft nodes were last compared with none.
    decided_gain: float = 1.0
    # Comparisons in a row that draft nodes have lost.
    _num_lost: int = 0
    _is_first: bool = True

    @property
    def gain(self) -> float:
        """Tokens a second with draft nodes, divided by those without."""
        return self._guesses.rate / self._plain.rate

    def passed(self, tokens: float, passes: float, *, may_pause: bool) -> None:
        """Add a pass, and set `speculation` for the next ones.

        tokens: the average number that a stream got. passes: its seconds, divided by the calibrated
        seconds of a pass without guesses. may_pause: whether a pause may begin now.
        """
        self.num_left -= 1
        match self.speculation:
            case Speculation.ON:
                self._guesses.add(tokens, passes)
                if self.num_left <= 0 and may_pause:
                    self._pause()
            case Speculation.PAUSED:
                if self.num_left < _PAUSE_PASSES - _LEFT_OUT_PASSES:
                    self._plain.add(tokens, passes)
                if self.num_left <= 0:
                    self._decide()
            case Speculation.OFF:
                self._plain.add(tokens, passes)
                if self.num_left <= 0:
                    self._set(Speculation.ON, _TRIAL_PASSES)

    def _pause(self) -> None:
        """Begin a pause, but delay the first one where guesses seem to gain much."""
        # Guesses do not shorten passes. Passes that are shorter than calibrated show that the
        # calibration is too slow, because it was measured on a busy machine, for example.
        gain = min(self.gain, self._guesses.tokens / self._guesses.num)
        if self._is_first and gain > 1.0:
            self.num_left = _PAUSE_PASSES * (gain - 1.0) / _MOST_TRIAL_COST
        else:
            self._set(Speculation.PAUSED, _PAUSE_PASSES)
        self._is_first = False

    def _decide(self) -> None:
        """After a pause, choose the faster mode and the passes until the other is tried again."""
        self.decided_gain = self.gain
        # A difference below the cost of trials counts as that.
        loss = max(_MOST_TRIAL_COST, abs(self.gain - 1.0))
        if self.gain < 1.0:
            cost = max(_MOST_TRIAL_COST, self.first_trial_cost / 2**self._num_lost)
            self._num_lost += 1
            self._set(Speculation.OFF, _TRIAL_PASSES * loss / cost)
        else:
            self._num_lost = 0
            self._set(Speculation.ON, _PAUSE_PASSES * loss / _MOST_TRIAL_COST)

    def _set(self, speculation: Speculation, num_passes: float) -> None:
        self.speculation, self.num_left = speculation, num_passes
