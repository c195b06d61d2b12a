"""What other kinds of plans gain beside those in force, on average over some seconds. Pure.

What is learnt of streams is noisy, and a few streams that come or go change what is best by some
percent: whoever goes by one plan alone needs margins that are larger than most gains, or changes
plans all the time, and each change costs something. The longer gains have been alike, the less is
asked of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from policies.plan import Kind

# Of averages; and how soon they are trusted.
_MEMORY_S, _TRUST_S = 10.0, 4.0
# What a single plan says holds for no longer, whenever the next one is made; the first one for the
# shorter time. What nobody has looked at for the last time is forgotten.
_FIRST_HOLDS_S, _HOLDS_S, _FORGOTTEN_S = 0.5, 2.0, 30.0
# A gain this far from its average is of another situation, not noise.
_OTHER_SITUATION = 0.15
# What another kind must gain at first, and in the end: a change is no gain by itself.
_FIRST_MARGIN, _MARGIN = 0.05, 0.01


@dataclass(frozen=True, slots=True)
class Gain:
    """value: logarithm of the price of the kind in force over that of another, on average. known_s:
    how long it has been alike; at: when it was last seen, seconds of any one clock."""

    value: float
    at: float
    known_s: float = _FIRST_HOLDS_S

    def seen(self, value: float, now: float) -> Gain:
        passed_s = now - self.at
        if passed_s > _FORGOTTEN_S or abs(value - self.value) > _OTHER_SITUATION:
            return Gain(value, now)
        weight_s = min(passed_s, _HOLDS_S)
        known_s = self.known_s + weight_s
        share = weight_s / min(_MEMORY_S, known_s)
        return Gain(self.value + share * (value - self.value), now, known_s)

    def beyond(self, other: Gain) -> Gain:
        return Gain(self.value - other.value, self.at, min(self.known_s, other.known_s))

    @property
    def doubt(self) -> float:
        return _FIRST_MARGIN * math.exp(-self.known_s / _TRUST_S)


@dataclass(frozen=True, slots=True)
class Advantage:
    """Of kinds that there are plans of, over the one in force. What they differ by is less noisy
    than what each is worth, for most of that is noise of the same streams."""

    current: Kind = Kind.PLAIN
    gains: Mapping[Kind, Gain] = field(default_factory=dict)

    def seen(self, prices_s: Mapping[Kind, float], current: Kind, now: float) -> Advantage:
        """With what plans of some kinds would cost that are made now; current: the kind in force,
        which is one of them. Others may come back."""
        gains = {
            kind: gain
            for kind, gain in self._beside(current).items()
            if now - gain.at <= _FORGOTTEN_S
        }
        for kind, price_s in prices_s.items():
            if kind is not current:
                value, known = math.log(prices_s[current] / price_s), gains.get(kind)
                gains[kind] = Gain(value, now) if known is None else known.seen(value, now)
        return Advantage(current, gains)

    def _beside(self, current: Kind) -> Mapping[Kind, Gain]:
        """What is known of gains beside another kind than those were in force."""
        if current is self.current:
            return self.gains
        base = self.gains.get(current)
        if base is None:
            return {}
        gains = {kind: gain.beyond(base) for kind, gain in self.gains.items() if kind != current}
        return gains | {self.current: Gain(0.0, base.at, base.known_s).beyond(base)}

    def best(self, costs: Mapping[Kind, float]) -> Kind:
        """The kind to have plans of. costs: of those there are, part of the time that a change to
        each of them takes."""

        def lead(kind: Kind) -> float:
            gain = self.gains[kind]
            return gain.value - gain.doubt - costs[kind] - _MARGIN

        others = [kind for kind in self.gains if kind in costs]
        best = max(others, key=lead, default=self.current)
        return best if best is not self.current and lead(best) > 0.0 else self.current


NOTHING_KNOWN = Advantage()
