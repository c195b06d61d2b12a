"""How many tokens guesses earn, and how the chance of acceptance is learnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def expected_tokens(alpha: float, gamma: int) -> float:
    """Mean tokens a round commits, the target's own included: (1 - a^(g+1)) / (1 - a).

    alpha: probability that one guess is accepted, in [0, 1]. gamma: guesses, at least 0.
    Leviathan et al. 2023, equation 1; Zhu et al. 2025.
    """
    if alpha >= 1.0:
        return gamma + 1.0
    return float((1.0 - alpha ** (gamma + 1)) / (1.0 - alpha))


def expected_token_matrix(alphas: Floats) -> Floats:
    """Expected tokens of every number of guesses at once.

    alphas: (n, g) acceptance of each guess, given that those before were accepted. Returns
    (n, g + 1), column gamma for gamma guesses: 1 + a_1 + a_1 a_2 + ...
    """
    earned = np.ones((alphas.shape[0], alphas.shape[1] + 1))
    np.cumprod(alphas, axis=1, out=earned[:, 1:])
    return np.cumsum(earned, axis=1, out=earned)


# How fast what was seen is forgotten, by commit: some 30 of them count.
_MEMORY: Final = 0.97
# A floor keeps alpha off 0 and 1, from which no estimate would come back.
_LEAST: Final = 0.05


@dataclass(slots=True)
class AcceptanceEstimate:
    """Running estimate of alpha with exponential forgetting. It begins with a prior of three
    guesses, 0.7 of them right, as those of most drafts are. memory: what a commit leaves of those
    before it."""

    successes: float = 2.1
    failures: float = 0.9
    memory: float = _MEMORY

    @property
    def alpha(self) -> float:
        return self.successes / (self.successes + self.failures)

    def observe(self, num_compared: int, num_right: int) -> None:
        """Guesses were compared with the text, each after right ones only; num_right of them were
        right. None compared tells nothing."""
        if num_compared:
            self.successes = max(_LEAST, self.memory * self.successes + num_right)
            self.failures = max(_LEAST, self.memory * self.failures + num_compared - num_right)
