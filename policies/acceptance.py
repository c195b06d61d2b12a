"""How many tokens guesses earn, and how the chance of acceptance is learnt."""

from __future__ import annotations

from dataclasses import dataclass


def expected_tokens(alpha: float, gamma: int) -> float:
    """Mean tokens a round commits, the target's own included: (1 - a^(g+1)) / (1 - a).

    alpha: probability that one guess is accepted, in [0, 1]. gamma: guesses, at least 0.
    Leviathan et al. 2023, equation 1; Zhu et al. 2025.
    """
    if alpha >= 1.0:
        return gamma + 1.0
    return float((1.0 - alpha ** (gamma + 1)) / (1.0 - alpha))


@dataclass(slots=True)
class AcceptanceEstimate:
    """Running estimate of alpha with exponential forgetting and a Beta prior.

    A round that accepted everything tells nothing of where it would have ended: its guesses
    count as successes, and no failure is counted.
    """

    successes: float = 2.1
    failures: float = 0.9
    memory: float = 0.97

    @property
    def alpha(self) -> float:
        return self.successes / (self.successes + self.failures)

    def observe(self, num_draft_tokens: int, num_accepted_tokens: int) -> None:
        """Learn from one verified round; rounds without guesses tell nothing."""
        if num_draft_tokens == 0:
            return
        rejected = num_accepted_tokens < num_draft_tokens
        self.successes = self.memory * self.successes + num_accepted_tokens
        self.failures = self.memory * self.failures + (1.0 if rejected else 0.0)
        # A floor keeps alpha off 0 and 1, from which no estimate would come back.
        self.successes = max(self.successes, 0.05)
        self.failures = max(self.failures, 0.05)
