"""The tokens that guesses are expected to give, and estimates of the chance that they are accepted.

A draft's own probability of its guess is informative, but is not the chance of acceptance: the
target has other probabilities, and with shared noise a sampled guess is accepted more often than
its probability says. So it is calibrated by the shares of accepted guesses in bins of confidence.
The bins are shipped with the draft and refitted from every guess that was compared with the text.
"""

from __future__ import annotations

import bisect
import json
import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def expected_tokens(alpha: float, gamma: int) -> float:
    """Mean tokens that a round commits, including the target's own: (1 - a^(g+1)) / (1 - a).

    alpha: probability that one guess is accepted, in [0, 1]. gamma: number of guesses, at least 0.
    Leviathan et al. 2023, equation 1; Zhu et al. 2025.
    """
    if alpha >= 1.0:
        return gamma + 1.0
    return float((1.0 - alpha ** (gamma + 1)) / (1.0 - alpha))


def expected_token_matrix(alphas: Floats, max_gamma: int) -> Floats:
    """Expected tokens for every number of guesses from 0 to max_gamma.

    alphas: (n,) acceptance of a guess. Returns (n, max_gamma + 1), where column gamma is for gamma
    guesses: 1 + a + a^2 + ...
    """
    earned: Floats = np.cumsum(alphas[:, None] ** np.arange(max_gamma + 1), axis=1)
    return earned


# The weight of observed guesses falls by this factor with each commit, so some 30 commits count.
_MEMORY: Final = 0.97


@dataclass(slots=True)
class AcceptanceEstimate:
    """A running estimate of alpha with exponential forgetting.

    It begins with a prior of three guesses and alpha 0.7, which is usual for draft models.
    memory: the share of what was known that a commit leaves.
    """

    successes: float = 2.1
    failures: float = 0.9
    memory: float = _MEMORY

    @property
    def alpha(self) -> float:
        return self.successes / (self.successes + self.failures)

    def observe(self, num_compared: int, num_right: int) -> None:
        """Learn from guesses that were compared with the text up to the first wrong one.

        num_right: how many of num_compared were right. Without a compared guess nothing changes.
        """
        # A target may report more right ones than compared ones, but alpha is a probability.
        num_right = min(num_right, num_compared)
        if num_compared:
            self.successes = self.memory * self.successes + num_right
            self.failures = self.memory * self.failures + num_compared - num_right


# The key of the calibration in a draft's model file.
CALIBRATION_KEY = "airdraft.calibration"
MAX_BINS = 64
# What was known before has the weight of this many guesses.
TRUST = 100.0
# The weight of a compared guess falls by this factor with each later one.
GUESS_MEMORY = 0.998


# The shares that 48 texts of the real pair had (tried-and-left.md), and the trust in them as a
# number of wrong guesses: a draft whose next choices are never right is soon not asked for them.
_OTHER_SHARES: Final = (0.5, 0.17, 0.08)
_OTHER_TRUST: Final = 10.0


@dataclass(slots=True)
class OtherChoices:
    """How often the token, where a guess was wrong, was the draft's second, third, ... choice."""

    _hits: list[float] = field(
        default_factory=lambda: [_OTHER_TRUST * share for share in _OTHER_SHARES]
    )
    _tries: float = _OTHER_TRUST

    @property
    def count(self) -> int:
        """How many choices after the first are counted."""
        return len(self._hits)

    def chances(self, first: float) -> list[float]:
        """Returns the chance of each to be right. first: that of the first choice."""
        return [(1.0 - first) * hits / self._tries for hits in self._hits]

    def observe(self, place: int | None) -> None:
        """Learn which of them was right; None if none was."""
        self._hits = [GUESS_MEMORY * hits + (n == place) for n, hits in enumerate(self._hits)]
        self._tries = GUESS_MEMORY * self._tries + 1.0


@dataclass(slots=True)
class Calibration:
    """Shares of accepted guesses by bins of confidence.

    edges: (b - 1,) ascending boundaries of the bins. rates: (b,) shipped shares, each in [0, 1].
    trust: weight of the rates, as a number of guesses of a bin. others: of wrong guesses. Raises
    ValueError.
    """

    edges: tuple[float, ...]
    rates: tuple[float, ...]
    trust: float = TRUST
    others: OtherChoices = field(default_factory=OtherChoices)
    _hits: list[float] = field(init=False)
    _tries: list[float] = field(init=False)

    def __post_init__(self) -> None:
        if len(self.rates) != len(self.edges) + 1 or len(self.rates) > MAX_BINS:
            raise ValueError(
                f"{len(self.edges)} edges need {len(self.edges) + 1} rates, at most {MAX_BINS}"
            )
        if any(not a < b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError(f"edges {self.edges} are not ascending")
        if not all(0.0 <= rate <= 1.0 for rate in self.rates):
            raise ValueError("a rate of accepted guesses must be in [0, 1]")
        if any(math.isnan(edge) for edge in self.edges):
            raise ValueError("an edge must be a number")
        self._hits, self._tries = [0.0] * len(self.rates), [0.0] * len(self.rates)

    def chance(self, confidence: float) -> float:
        """Returns the estimated chance that a guess of this confidence is accepted."""
        bin_index = bisect.bisect_right(self.edges, confidence)
        shipped = self.trust * self.rates[bin_index]
        return (shipped + self._hits[bin_index]) / (self.trust + self._tries[bin_index])

    def observe(self, confidence: float, *, accepted: bool) -> None:
        """Learn whether a guess was accepted; those before it must have been accepted."""
        bin_index = bisect.bisect_right(self.edges, confidence)
        self._hits[bin_index] = GUESS_MEMORY * self._hits[bin_index] + accepted
        self._tries[bin_index] = GUESS_MEMORY * self._tries[bin_index] + 1.0


_EDGES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
# Rates for a draft without a calibration, used with little trust. The acceptance of two drafts of
# SmolLM2 (bench/emulate/recordings, bench/distill/CARD.md) follows the square root of their
# probability within some 0.07, greedy and sampled: targets accept more often than it says.
_DEFAULT_RATES = tuple(
    math.sqrt((a + b) / 2) for a, b in zip((0.0, *_EDGES), (*_EDGES, 1.0), strict=True)
)
_LITTLE_TRUST = 10.0


def unknown_calibration() -> Calibration:
    """Returns the calibration of a draft of which nothing is known."""
    return Calibration(_EDGES, _DEFAULT_RATES, _LITTLE_TRUST)


@dataclass(slots=True)
class DraftCalibration:
    """Calibrations of a draft model for greedy and for sampled streams."""

    greedy: Calibration = field(default_factory=unknown_calibration)
    sampled: Calibration = field(default_factory=unknown_calibration)

    def of(self, temperature: float) -> Calibration:
        return self.greedy if temperature == 0.0 else self.sampled

    @classmethod
    def from_json(cls, text: str) -> DraftCalibration:
        """Parse the output of `calibration_json`. Raises ValueError for anything else."""
        try:
            table = json.loads(text)
            edges = _floats(table["edges"])
            greedy, sampled = _floats(table["greedy"]), _floats(table["sampled"])
        except (TypeError, KeyError, RecursionError, OverflowError) as error:
            raise ValueError(f"not a calibration: {error}") from error
        return cls(Calibration(edges, greedy), Calibration(edges, sampled))


def _floats(values: Any) -> tuple[float, ...]:
    if not isinstance(values, list) or any(type(v) not in (int, float) for v in values):
        raise ValueError("not a calibration: arrays of numbers are expected")
    return tuple(float(value) for value in values)
