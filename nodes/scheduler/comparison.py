"""Whether the guesses of draft nodes pay, by what passes with and without them give. Pure.

A guess costs more than its place in a pass. A draft node on the target's own machine takes time of
its cores and of its memory, and so do the messages, and no cost table knows of it. So draft nodes
pause now and then for some passes, and what passes give with them and without is compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

# Passes of a pause. In the first of them draft nodes still guess as far ahead as they may, on what
# they have been told: these are left out.
_PAUSE_PASSES: Final = 24
_LEFT_OUT: Final = 8
# Passes with draft nodes before the first comparison, and before each later one that follows a time
# without them.
_TRIAL_PASSES: Final = 32
# Passes without draft nodes after the first comparison that says so; twice as many after each
# further one. The first trial of a mesh is its worst, because draft nodes have not learnt yet which
# of their guesses are right. Chats of the real pair had 0.90 of plain decoding in the first 32
# passes and 1.49 times in later ones, and were once left without guesses for 1,490 passes. In a
# simulation of 1,000 tokens, drafts that gain 1.2, 1.4 and 1.7 times get 1.07, 1.08 and 1.06 times
# of what they got without this limit, and drafts that lose a third get 0.98 to 1.00.
_FIRST_OFF_PASSES: Final = 128
# Trying what seems to be worse may cost so much of all tokens.
_TRIED_AT: Final = 0.01
# What seems to differ by less than this is compared again as if it differed by so much.
_LEAST_LOSS: Final = 0.05
# A mean of the tokens that passes give scatters by 5 % over 64 passes of one stream, so more of
# them are remembered than of passes without guesses, which scatter by what they take alone.
_MEMORY: Final = 256.0
_MEMORY_PLAIN: Final = 64.0


class Speculation(Enum):
    """Whether draft nodes guess. Unless it is on, they are told nothing of the streams that they
    follow, and follow no others. PAUSED: for some passes. OFF: until guesses are tried again."""

    ON = "on"
    PAUSED = "paused"
    OFF = "off"


@dataclass(slots=True)
class _Seen:
    """Tokens that each stream got, and the passes that this took; older ones count less."""

    memory: float
    tokens: float = 1.0
    passes: float = 1.0

    def add(self, tokens: float, passes: float) -> None:
        kept = 1.0 - 1.0 / self.memory
        self.tokens = kept * self.tokens + tokens
        self.passes = kept * self.passes + passes

    @property
    def rate(self) -> float:
        return self.tokens / self.passes


class Comparisons:
    """A comparison for each number of streams of a target, by powers of two: guesses that pay for
    one stream may not pay for many."""

    def __init__(self) -> None:
        # By the bits of the number of streams.
        self._found: dict[int, Comparison] = {}

    def of(self, num_streams: int) -> Comparison:
        """The comparison for so many streams."""
        return self._found.setdefault(num_streams.bit_length(), Comparison())


@dataclass(slots=True)
class Comparison:
    """Whether draft nodes shall guess, where there are about equally many streams all the time."""

    speculation: Speculation = Speculation.ON
    _guesses: _Seen = field(default_factory=lambda: _Seen(_MEMORY))
    # Before the first pause what calibration says of passes without guesses: one a pass.
    _plain: _Seen = field(default_factory=lambda: _Seen(_MEMORY_PLAIN))
    _num_left: float = _TRIAL_PASSES
    # Comparisons one after the other that draft nodes have lost.
    _num_lost: int = 0
    _is_first: bool = True

    @property
    def gain(self) -> float:
        """Tokens a second with draft nodes, to those without."""
        return self._guesses.rate / self._plain.rate

    def passed(self, tokens: float, passes: float, *, may_pause: bool) -> None:
        """A pass is over; `speculation` says what follows from it for the next ones.

        tokens: that each stream got on average. passes: its seconds, to what a pass of the streams'
        own tokens takes by calibration. may_pause: whether streams may do without guesses for a
        while now.
        """
        self._num_left -= 1
        match self.speculation:
            case Speculation.ON:
                self._guesses.add(tokens, passes)
                if self._num_left <= 0 and may_pause:
                    self._pause()
            case Speculation.PAUSED:
                if self._num_left < _PAUSE_PASSES - _LEFT_OUT:
                    self._plain.add(tokens, passes)
                if self._num_left <= 0:
                    self._decide()
            case Speculation.OFF:
                self._plain.add(tokens, passes)
                if self._num_left <= 0:
                    self._set(Speculation.ON, _TRIAL_PASSES)

    def _pause(self) -> None:
        """Begin a pause; the first one later where guesses seem to gain much."""
        if self._is_first and self.gain > 1.0:
            self._num_left = _PAUSE_PASSES * (self.gain - 1.0) / _TRIED_AT
        else:
            self._set(Speculation.PAUSED, _PAUSE_PASSES)
        self._is_first = False

    def _decide(self) -> None:
        """After a pause: what gives more, until the other may be tried again."""
        loss = max(_LEAST_LOSS, abs(self.gain - 1.0))
        if self.gain < 1.0:
            most = float(_FIRST_OFF_PASSES << min(self._num_lost, 8))
            self._num_lost += 1
            self._set(Speculation.OFF, min(most, _TRIAL_PASSES * loss / _TRIED_AT))
        else:
            self._num_lost = 0
            self._set(Speculation.ON, _PAUSE_PASSES * loss / _TRIED_AT)

    def _set(self, speculation: Speculation, num_passes: float) -> None:
        self.speculation, self._num_left = speculation, num_passes
