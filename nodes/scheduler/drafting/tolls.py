"""Whether guesses that are there are worth the longer pass that verifies them.

A plan goes by acceptance on average. Of lookup's guesses each is known before it is sent, and how
likely it is; and a pass may cost much more with the first guess than with the next ones. In a pass
of T seconds, in which a stream of weight w expects 1 + G tokens, the price of the plan is T times
the sum of w / (1 + G) over all streams: guesses are worth sending where it is
less than without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from policies.latency import CostTable
from policies.plan import Observation

# What is expected of guesses is the best of what is known, and so too good: they must take this
# much off the price, or none are sent.
_MARGIN = 0.05


@dataclass(frozen=True, slots=True)
class Found:
    """Guesses for a stream. gains: of the first, the first two and so on, those expected to be
    accepted. weight: of its seconds a token."""

    token_ids: tuple[int, ...] = ()
    gains: tuple[float, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Tolls:
    """What guesses cost all who decode: seconds of their passes.

    used_cells: of the target's cache. weight: of all streams.
    """

    passes: CostTable
    num_streams: int
    used_cells: int
    weight: float
    # Asked for with every token of every stream.
    _known: dict[int, float] = field(default_factory=dict, compare=False)

    def pass_s(self, num_guesses: int) -> float:
        """Seconds of a pass with so many guesses."""
        found = self._known.get(num_guesses)
        if found is None:
            found = self.passes.at(self.num_streams + num_guesses, self.used_cells)
            self._known[num_guesses] = found
        return found

    def if_all_did(self, gains: Sequence[float]) -> int:
        """How many of a stream's guesses would be best if all streams had guesses like these."""
        prices = [self.pass_s(0)]
        for count, gain in enumerate(gains, 1):
            prices.append(self.pass_s(self.num_streams * count) / (1.0 + gain))
        return prices.index(min(prices))

    def best(
        self, found: Sequence[Found], waits_s: float = 0.0, num_passes: float = 1.0
    ) -> list[int]:
        """How many guesses of each to send, often none.

        waits_s: for which all wait where there is a round. num_passes: from one round of a stream
        to the next of its rounds or leases.
        Those who gain most come first: either they alone guess, or the next one as well, and so on.
        """
        order = sorted(range(len(found)), key=lambda k: -max(found[k].gains, default=0.0))
        counts, best = [0] * len(found), [0] * len(found)
        rest, num_guesses = self.weight, 0
        least = self.pass_s(0) * rest * (1.0 - _MARGIN)
        for index in order:
            one = found[index]
            others = rest - one.weight
            prices = [
                (self.pass_s(num_guesses + count) + waits_s)
                * (others + one.weight * num_passes / (1.0 + gain))
                for count, gain in enumerate(one.gains, 1)
            ]
            if not prices:
                break
            price = min(prices)
            counts[index] = prices.index(price) + 1
            rest = others + one.weight * num_passes / (1.0 + one.gains[counts[index] - 1])
            num_guesses += counts[index]
            if price < least:
                least, best = price, list(counts)
        return best


def tolls_of(seen: Observation) -> Tolls | None:
    """Of passes in which all these streams decode; None where nothing is known of passes."""
    if seen.target is None or not seen.streams:
        return None
    weight = sum(view.weight for view in seen.streams)
    return Tolls(seen.target.decode, len(seen.streams), seen.used_cells, weight)
