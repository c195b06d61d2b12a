"""How many tokens guesses earn, and how the chance of acceptance is learnt."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

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


# Positions that are told apart, and how many trials it takes before one is trusted half.
_NUM_POSITIONS = 8
_POSITION_TRUST = 50.0
# A draft node that always stopped so far may yet go on.
_LEAST_KEPT = 0.02


@dataclass(slots=True)
class AcceptanceEstimate:
    """Running estimate of alpha with exponential forgetting and a Beta prior.

    basis, weight: what its kind is known for by now, as much as so many guesses. It is not
    forgotten with what was seen, which makes a stream fall back on what its kind is like, and it
    goes on being learnt from others. Without it, what is given first is the prior, and fades.

    A round that accepted everything tells nothing of where it would have ended: its guesses
    count as successes, and no failure is counted. A guess that the draft node kept to itself, as
    not likely enough, earns as little as a wrong one and counts like one.
    """

    successes: float = 2.1
    failures: float = 0.9
    memory: float = 0.97
    # Whether rounds without any guess are counted by themselves: where they are all or nothing.
    counts_empty: bool = False
    basis: AcceptanceEstimate | None = None
    weight: float = 0.0
    # Guesses made, and rounds in which the draft node stopped before its cap.
    _made: float = 4.0
    _stops: float = 0.0
    # Rounds in which guesses were asked for, and those of them that had none.
    _rounds: float = 0.0
    _empty: float = 0.0
    _hits: list[float] = field(default_factory=lambda: [0.0] * _NUM_POSITIONS)
    _tries: list[float] = field(default_factory=lambda: [0.0] * _NUM_POSITIONS)

    @property
    def alpha(self) -> float:
        successes, failures = self.successes, self.failures
        if self.basis is not None:
            expected = self.basis.alpha
            successes += self.weight * expected
            failures += self.weight * (1.0 - expected)
        return successes / (successes + failures)

    @property
    def is_untried(self) -> bool:
        return not any(self._tries)

    @property
    def alphas(self) -> tuple[float, ...]:
        """Acceptance by position of the guess, drawn towards `alpha` where little is known.

        Empty while hardly anything is.
        """
        if self._tries[0] < _POSITION_TRUST:
            return ()
        alpha = self.alpha
        return tuple(
            (hits + _POSITION_TRUST * alpha) / (tries + _POSITION_TRUST)
            for hits, tries in zip(self._hits, self._tries, strict=True)
        )

    @property
    def kept(self) -> float:
        """Probability that the draft node makes a guess, once it made those before it.

        Of the guesses after the first where rounds without any are counted by themselves.
        """
        made, stops = self._made, self._stops
        if self.counts_empty:
            made, stops = made - (self._rounds - self._empty), stops - self._empty
        if self.basis is not None:
            expected = self.basis.kept
            made, stops = made + self.weight * expected, stops + self.weight * (1.0 - expected)
        return max(_LEAST_KEPT, made / (made + stops)) if made + stops > 1e-9 else 1.0

    @property
    def starts(self) -> float:
        """Probability that a round has guesses."""
        if not self.counts_empty:
            return self.kept
        return max(_LEAST_KEPT, (self._rounds - self._empty + 1.0) / (self._rounds + 1.0))

    def told(self, kept: float) -> AcceptanceEstimate:
        """The same estimate where this is known of how often guesses are made."""
        return replace(self, _made=kept, _stops=1.0 - kept)

    def of_one(self, weight: float) -> AcceptanceEstimate:
        """What this tells of a stream that nothing is known of, now and later: as much as `weight`
        guesses."""
        return AcceptanceEstimate(0.0, 0.0, basis=self, weight=weight, _made=0.0)

    def beside(self, basis: AcceptanceEstimate, weight: float) -> AcceptanceEstimate:
        """What was seen, where another kind is to be fallen back on from now on."""
        seen = list(self._hits), list(self._tries)
        return replace(self, basis=basis, weight=weight, _hits=seen[0], _tries=seen[1])

    def begin_as(self, other: AcceptanceEstimate, weight: float) -> None:
        """Take what another estimate says for what is known, as much as `weight` guesses."""
        alpha, kept = other.alpha, other.kept
        self.successes, self.failures = weight * alpha, weight * (1.0 - alpha)
        self._made, self._stops = weight * kept, weight * (1.0 - kept)

    @property
    def judged(self) -> tuple[float, float]:
        """Guesses that were right, and all that were judged, with what was known before left out
        and the oldest ones forgotten."""
        return sum(self._hits), sum(self._tries)

    def observe(
        self, num_draft_tokens: int, num_accepted_tokens: int, num_asked: int | None = None
    ) -> None:
        """Learn from one verified round; rounds in which no guesses were asked for tell nothing.

        num_asked: the cap on its guesses; without it the round is taken to have reached its cap.
        """
        if not (num_draft_tokens if num_asked is None else num_asked):
            return
        stopped = num_asked is not None and num_draft_tokens < num_asked
        rejected = stopped or num_accepted_tokens < num_draft_tokens
        self._made = self.memory * self._made + num_draft_tokens
        self._stops = self.memory * self._stops + stopped
        self._rounds = self.memory * self._rounds + 1.0
        self._empty = self.memory * self._empty + (num_draft_tokens == 0)
        self.successes = self.memory * self.successes + num_accepted_tokens
        self.failures = self.memory * self.failures + (1.0 if rejected else 0.0)
        # A floor keeps alpha off 0 and 1, from which no estimate would come back.
        if self.basis is None:
            self.successes = max(self.successes, 0.05)
            self.failures = max(self.failures, 0.05)
        # Positions are told apart over hundreds of rounds: they forget ten times slower.
        memory = 1.0 - (1.0 - self.memory) / 10.0
        for position in range(min(num_accepted_tokens + rejected, _NUM_POSITIONS)):
            self._tries[position] = memory * self._tries[position] + 1.0
            hit = position < num_accepted_tokens
            self._hits[position] = memory * self._hits[position] + hit
