"""Whether the guesses of draft nodes pay, by what passes with and without them give. Pure.

A guess costs more than its place in a pass. A draft node on the target's own machine takes time of
its cores and of its memory, and so do the messages, and no cost table knows of it. So a target's
streams go without draft nodes now and then, for some passes, and both ways are compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

# Passes of a pause. In the first of them draft nodes still guess as far ahead as they may, on what
# they have been told: these are left out.
_PAUSE_PASSES: Final = 24
_LEFT_OUT: Final = 8
# Passes with draft nodes until both ways are compared for the first time, and where they did not
# pay the last time.
_FIRST_PASSES: Final = 32
_AGAIN_PASSES: Final = 64
# Trying the way that seems to be the worse one may cost so much of all tokens.
_TRIED_AT: Final = 0.01
# Two ways that seem to differ by less than this are compared as if they did by so much.
_LEAST_LOSS: Final = 0.05
# A mean of the tokens that passes give scatters by 5 % over 64 passes of one stream, so more of
# them are remembered than of passes without guesses, which scatter by what they take alone.
_MEMORY: Final = 256.0
_MEMORY_PLAIN: Final = 64.0


class Way(Enum):
    """Whether draft nodes guess. In the last two they are told nothing of the streams that they
    follow, and follow no others. PAUSED: for some passes. PLAIN: until guesses are tried again."""

    GUESSES = "guesses"
    PAUSED = "paused"
    PLAIN = "plain"


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
    """Which way a target's streams go: for many another one may be better than for one."""

    def __init__(self) -> None:
        # By the number of bits of how many streams there are.
        self._found: dict[int, Comparison] = {}

    def of(self, num_streams: int) -> Comparison:
        """For so many streams, and for up to twice as many."""
        return self._found.setdefault(num_streams.bit_length(), Comparison())


@dataclass(slots=True)
class Comparison:
    """Which way streams go, of which there are about equally many all the time."""

    way: Way = Way.GUESSES
    _guesses: _Seen = field(default_factory=lambda: _Seen(_MEMORY))
    # Before the first pause what calibration says of passes without guesses: one a pass.
    _plain: _Seen = field(default_factory=lambda: _Seen(_MEMORY_PLAIN))
    _num_left: float = _FIRST_PASSES
    _is_first: bool = True

    @property
    def gain(self) -> float:
        """Tokens a second with draft nodes, to those without."""
        return self._guesses.rate / self._plain.rate

    def passed(self, tokens: float, passes: float, *, may_pause: bool) -> None:
        """A pass is over; what follows from it for the next ones is in `way`.

        tokens: that each stream got on average. passes: its seconds, to what a pass of the streams'
        own tokens takes by calibration. may_pause: whether streams may do without guesses for a
        while now.
        """
        self._num_left -= 1
        match self.way:
            case Way.GUESSES:
                self._guesses.add(tokens, passes)
                if self._num_left <= 0 and may_pause:
                    self._pause()
            case Way.PAUSED:
                if self._num_left < _PAUSE_PASSES - _LEFT_OUT:
                    self._plain.add(tokens, passes)
                if self._num_left <= 0:
                    self._decide()
            case Way.PLAIN:
                self._plain.add(tokens, passes)
                if self._num_left <= 0:
                    self._go(Way.GUESSES, _AGAIN_PASSES)

    def _pause(self) -> None:
        """Begin a pause; the first one later where guesses seem to gain much."""
        if self._is_first and self.gain > 1.0:
            self._num_left = _PAUSE_PASSES * (self.gain - 1.0) / _TRIED_AT
        else:
            self._go(Way.PAUSED, _PAUSE_PASSES)
        self._is_first = False

    def _decide(self) -> None:
        """After a pause: the better way, until the other one may be tried again."""
        loss = max(_LEAST_LOSS, abs(self.gain - 1.0))
        if self.gain < 1.0:
            self._go(Way.PLAIN, _AGAIN_PASSES * loss / _TRIED_AT)
        else:
            self._go(Way.GUESSES, _PAUSE_PASSES * loss / _TRIED_AT)

    def _go(self, way: Way, num_passes: float) -> None:
        self.way, self._num_left = way, num_passes
