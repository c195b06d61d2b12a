"""How likely a guess is to be accepted, by what its draft says of it.

A draft's own probability of its guess tells much, but is no probability of acceptance: the target
thinks otherwise, and under shared noise a sampled guess is accepted more often than it is likely.
So it is calibrated: shares of accepted guesses by bins of confidence, shipped with the draft and
learnt further from every guess whose fate is known.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

# Where a draft's model file keeps it.
CALIBRATION_KEY = "airdraft.calibration"
MAX_BINS = 64
# How many guesses of a bin what is shipped counts for, and how fast they are forgotten.
_TRUST = 100.0
_MEMORY = 0.998


@dataclass(slots=True)
class Calibration:
    """Shares of accepted guesses by bins of confidence.

    edges: (b - 1,) ascending, where one bin ends and the next begins. rates: (b,) of what is
    shipped, each in [0, 1]. trust: how many guesses of a bin they count for.
    """

    edges: tuple[float, ...]
    rates: tuple[float, ...]
    trust: float = _TRUST
    _hits: list[float] = field(init=False)
    _tries: list[float] = field(init=False)

    def __post_init__(self) -> None:
        if len(self.rates) != len(self.edges) + 1 or len(self.rates) > MAX_BINS:
            raise ValueError(f"{len(self.edges)} edges part {len(self.edges) + 1} bins")
        if any(not a < b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError(f"edges {self.edges} are not ascending")
        if not all(0.0 <= rate <= 1.0 for rate in self.rates):
            raise ValueError("a share of accepted guesses is in [0, 1]")
        if any(math.isnan(edge) for edge in self.edges):
            raise ValueError("an edge is a number")
        self._hits, self._tries = [0.0] * len(self.rates), [0.0] * len(self.rates)

    def chance(self, confidence: float) -> float:
        """Probability that a guess of this confidence is accepted, by what is known now."""
        place = bisect.bisect_right(self.edges, confidence)
        shipped = self.trust * self.rates[place]
        return (shipped + self._hits[place]) / (self.trust + self._tries[place])

    def observe(self, confidence: float, *, accepted: bool) -> None:
        """Learn the fate of a guess; those before it must have been accepted."""
        place = bisect.bisect_right(self.edges, confidence)
        self._hits[place] = _MEMORY * self._hits[place] + accepted
        self._tries[place] = _MEMORY * self._tries[place] + 1.0


_EDGES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
# Of a draft that nothing is shipped with, with little trust. What two drafts of SmolLM2 say of
# their guesses (bench/emulate/recordings, bench/distill/CARD.md) follows the root of the
# probability within some 0.07, greedy and sampled: a target agrees more often than a draft is sure.
_UNKNOWN = tuple(
    math.sqrt((a + b) / 2) for a, b in zip((0.0, *_EDGES), (*_EDGES, 1.0), strict=True)
)
_LITTLE_TRUST = 10.0


def unknown_calibration() -> Calibration:
    """Of a draft of which nothing is known."""
    return Calibration(_EDGES, _UNKNOWN, _LITTLE_TRUST)


@dataclass(slots=True)
class DraftCalibration:
    """Calibrations of a draft model for greedy and for sampled streams."""

    greedy: Calibration = field(default_factory=unknown_calibration)
    sampled: Calibration = field(default_factory=unknown_calibration)

    def of(self, temperature: float) -> Calibration:
        return self.greedy if temperature == 0.0 else self.sampled

    @classmethod
    def from_json(cls, text: str) -> DraftCalibration:
        """What `calibration_json` wrote; raises ValueError for anything else."""
        try:
            table = json.loads(text)
            edges = _floats(table["edges"])
            greedy, sampled = _floats(table["greedy"]), _floats(table["sampled"])
        except (TypeError, KeyError, RecursionError, OverflowError) as error:
            raise ValueError(f"no calibration: {error}") from error
        return cls(Calibration(edges, greedy), Calibration(edges, sampled))


def _floats(values: Any) -> tuple[float, ...]:
    if not isinstance(values, list) or any(type(v) not in (int, float) for v in values):
        raise ValueError("no calibration: numbers are expected")
    return tuple(float(value) for value in values)


@dataclass(frozen=True, slots=True)
class Binned:
    """Guesses of known fate by the usual bins of confidence: (b,) rates accepted, (b,) shares."""

    rates: tuple[float, ...]
    shares: tuple[float, ...]


def binned(confidences: Sequence[float], accepted: Sequence[bool]) -> Binned:
    """Rates are drawn towards the draft's word where there are few guesses."""
    hits = [_LITTLE_TRUST * rate for rate in _UNKNOWN]
    tries = [0] * len(_UNKNOWN)
    for confidence, flag in zip(confidences, accepted, strict=True):
        place = bisect.bisect_right(_EDGES, confidence)
        hits[place] += flag
        tries[place] += 1
    return Binned(
        tuple(hit / (_LITTLE_TRUST + count) for hit, count in zip(hits, tries, strict=True)),
        tuple(count / max(1, sum(tries)) for count in tries),
    )


def calibration_json(greedy: Binned, sampled: Binned) -> str:
    """One line, as draft files carry it; the shares are there for whoever reads it."""
    table = {
        "edges": list(_EDGES),
        "greedy": [round(rate, 4) for rate in greedy.rates],
        "sampled": [round(rate, 4) for rate in sampled.rates],
        "greedy_shares": [round(share, 5) for share in greedy.shares],
        "sampled_shares": [round(share, 5) for share in sampled.shares],
    }
    return json.dumps(table)
