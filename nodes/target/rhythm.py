"""When the next round is to be expected: what is to be read may go along with it. Pure.

A pass of a few tokens takes a target as long as one of dozens. Where one batch goes round, the
target is idle while guesses are made; a pass for the last tokens of some prompt in that gap is one
that the round waits for, and all its streams with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nodes.stream import PROMPT_PIECE_TOKENS
from nodes.target.state import TargetState

_RATE = 0.1
# Rounds are a little late half of the time.
_SLACK = 1.5
# A target that had nothing to do for an hour learns no more of it than this.
_MOST_PASSES = 4.0


@dataclass(slots=True)
class Rhythm:
    """Of one target. Times are seconds of any one clock.

    gap_s: from the end of a round's pass to the next round; pass_s: of such a pass.
    """

    gap_s: float = math.inf
    pass_s: float = 0.0
    _ended_at: float = -math.inf

    def round_came(self, now: float) -> None:
        """Guesses are there to be verified."""
        gap_s = now - self._ended_at
        if math.isinf(gap_s):
            return
        gap_s = min(gap_s, _MOST_PASSES * self.pass_s)
        self.gap_s = gap_s if math.isinf(self.gap_s) else self.gap_s + _RATE * (gap_s - self.gap_s)
        self._ended_at = -math.inf

    def round_done(self, now: float, seconds: float) -> None:
        """A pass with a round in it has ended."""
        self.pass_s += _RATE * (seconds - self.pass_s) if self.pass_s else seconds
        self._ended_at = now

    def patient_until(self, now: float) -> float:
        """Until when a pass that could go along with the next round should wait for it; `now` if
        it should not.

        It waits where the round is expected sooner than that pass would end, and no longer than
        that.
        """
        until = min(self._ended_at + _SLACK * self.gap_s, now + self.pass_s)
        is_soon = self._ended_at + self.gap_s < now + self.pass_s
        return until if now < until < math.inf and is_soon else now


class RoundPace:
    """Keeps what is soon read until the next round, where that is soon there."""

    def __init__(self) -> None:
        self.rhythm = Rhythm()

    def begin_anew(self) -> None:
        """Another coordinator sends rounds at times of its own."""
        self.rhythm = Rhythm()

    def patience_s(self, worker: TargetState, now: float) -> float:
        unread = worker.unread_between_rounds()
        # What does not fit beside a round waits for more of them than one.
        if unread is None or unread > PROMPT_PIECE_TOKENS:
            return 0.0
        return self.rhythm.patient_until(now) - now

    def passed(self, worker: TargetState, now: float, seconds: float) -> None:
        if worker.had_round:
            self.rhythm.round_done(now, seconds)
