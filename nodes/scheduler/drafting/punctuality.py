"""How long to wait for a draft node: by what was predicted, and how far from it its answers come.

The estimate is TCP's of its round trips (Jacobson 1988, RFC 6298): a mean and a mean deviation of
how much later than predicted a node answers.
"""

from __future__ import annotations

from dataclasses import dataclass

_MEAN_RATE = 1 / 8
_DEVIATION_RATE = 1 / 4
_NUM_DEVIATIONS = 4.0
# Before anything is known of a node.
_FIRST_FACTOR, _FIRST_S = 6.0, 0.25
# Never less than this beyond what was predicted: processes pause, and a wait is cheaper than that.
_LEAST_FACTOR, _LEAST_S = 1.5, 0.05
# A node that was late for once is waited for no longer than this many times the prediction.
_MOST_FACTOR, _MOST_S = 12.0, 1.0


@dataclass(slots=True)
class Punctuality:
    """Of one draft node."""

    _lateness_s: float = 0.0
    _deviation_s: float = 0.0
    _num_seen: int = 0

    def observe(self, seconds: float, predicted_s: float) -> None:
        """An answer came after so many seconds, or had not come when it was given up.

        So slower nodes get more time.
        """
        late_s = seconds - predicted_s
        self._num_seen += 1
        if self._num_seen == 1:
            self._lateness_s, self._deviation_s = late_s, abs(late_s) / 2
            return
        error_s = late_s - self._lateness_s
        self._lateness_s += _MEAN_RATE * error_s
        self._deviation_s += _DEVIATION_RATE * (abs(error_s) - self._deviation_s)

    def patience_s(self, predicted_s: float) -> float:
        """Seconds to wait for an answer that is predicted to take predicted_s."""
        first_s = max(_FIRST_S, _FIRST_FACTOR * predicted_s)
        if self._num_seen == 0:
            return first_s
        wanted_s = predicted_s + self._lateness_s + _NUM_DEVIATIONS * self._deviation_s
        # A few answers tell little of how far apart they can be.
        wanted_s = max(wanted_s, first_s / self._num_seen)
        least_s = _LEAST_FACTOR * predicted_s + _LEAST_S
        return min(max(wanted_s, least_s), _MOST_FACTOR * predicted_s + _MOST_S)
