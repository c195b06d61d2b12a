"""How alike the streams of one draft model are: what they tell of one that has just begun."""

from __future__ import annotations

from dataclasses import dataclass

# Of the streams that ended before each one that ends.
_MEMORY = 0.95
# What is taken for granted before any has ended, as recorded texts of all kinds had it with either
# of two drafts, and how many streams it counts as.
_FIRST_WEIGHT, _FIRST_STREAMS = 8.0, 4.0
_LEAST_WEIGHT, _MOST_WEIGHT = 2.0, 40.0
# A stream that was judged by fewer guesses says nothing of what streams are like.
_LEAST_TRIED = 4.0


@dataclass(slots=True)
class Population:
    """Acceptance of streams that have ended, as sums with exponential forgetting."""

    _streams: float = 0.0
    _rates: float = 0.0
    _squares: float = 0.0
    _noise: float = 0.0

    def ended(self, num_accepted: float, num_tried: float) -> None:
        """A stream has ended: of so many guesses that were judged, so many were right."""
        if num_tried < _LEAST_TRIED:
            return
        rate = num_accepted / num_tried
        self._streams = _MEMORY * self._streams + 1.0
        self._rates = _MEMORY * self._rates + rate
        self._squares = _MEMORY * self._squares + rate * rate
        self._noise = _MEMORY * self._noise + 1.0 / num_tried

    @property
    def weight(self) -> float:
        """Guesses that the mean of the model counts as in what is expected of a new stream.

        The strength a + b of the beta distribution that has the spread of the streams, by moments:
        what rates differ by beyond the noise of so few guesses each. Alike streams give a large
        one, and a stream of which little has been seen is then taken to be as the others are.
        """
        count = self._streams
        if count <= 1.0:
            return _FIRST_WEIGHT
        mean = self._rates / count
        even = mean * (1.0 - mean)
        if even <= 0.0:
            return _MOST_WEIGHT
        seen = (self._squares / count - mean * mean) * count / (count - 1.0)
        between = max(0.0, seen - even * self._noise / count)
        first = even / (1.0 + _FIRST_WEIGHT)
        between = (_FIRST_STREAMS * first + count * between) / (_FIRST_STREAMS + count)
        return min(_MOST_WEIGHT, max(_LEAST_WEIGHT, even / between - 1.0))
