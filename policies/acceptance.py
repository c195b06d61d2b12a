"""The tokens that guesses are expected to give, and the estimate of their acceptance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

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


def expected_token_matrix(alphas: Floats) -> Floats:
    """Expected tokens for every number of guesses from 0 to g.

    alphas: (n, g) acceptance of each guess, given that those before were accepted. Returns
    (n, g + 1), where column gamma is for gamma guesses: 1 + a_1 + a_1 a_2 + ...
    """
    earned = np.ones((alphas.shape[0], alphas.shape[1] + 1))
    np.cumprod(alphas, axis=1, out=earned[:, 1:])
    return np.cumsum(earned, axis=1, out=earned)


# The weight of observed guesses falls by this factor with each commit, so some 30 commits count.
_MEMORY: Final = 0.97
# A floor keeps alpha away from 0 and 1, from which the estimate could not return.
_LEAST: Final = 0.05


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
        if num_compared:
            self.successes = max(_LEAST, self.memory * self.successes + num_right)
            self.failures = max(_LEAST, self.memory * self.failures + num_compared - num_right)
