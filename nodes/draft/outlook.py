"""How likely the guesses of a stream's present round are to be accepted, and when to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from policies.confidence import Calibration


@dataclass(slots=True)
class Outlook:
    """Guesses of one round of a stream, those that were not made for want of likelihood too.

    chance: that all guesses so far are accepted. stop: least chance at which a guess is made.
    """

    chance: float = 1.0
    stop: float = 0.0
    has_stopped: bool = False
    _tried: list[tuple[int, float]] = field(default_factory=list)

    def begin(self, stop: float) -> None:
        """A new round."""
        self.chance, self.stop, self.has_stopped = 1.0, stop, False
        self._tried.clear()

    def takes(self, token_id: int, confidence: float, calibration: Calibration) -> bool:
        """Whether the next guess is likely enough; if not, the round's guesses end before it."""
        self._tried.append((token_id, confidence))
        self.chance *= calibration.chance(confidence)
        self.has_stopped = self.chance < self.stop
        return not self.has_stopped

    def learn(self, calibration: Calibration, committed: Sequence[int]) -> None:
        """Compare the last round's guesses with what was committed since: known fates are learnt.

        A guess that was not made has one too, which keeps low bins from being forgotten.
        """
        for (token_id, confidence), committed_id in zip(self._tried, committed, strict=False):
            calibration.observe(confidence, accepted=token_id == committed_id)
            if token_id != committed_id:
                break
        self._tried.clear()
