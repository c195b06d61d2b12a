"""What is known of a draft model's guesses for one target, whichever nodes make them."""

from __future__ import annotations

from dataclasses import dataclass, field

from policies.acceptance import AcceptanceEstimate
from policies.population import Population

# Of rounds of single streams: some hundreds, or a model would be taken for what its last few
# streams were.
_MEMORY = 0.998


def _untried() -> AcceptanceEstimate:
    return AcceptanceEstimate(memory=_MEMORY)


@dataclass(slots=True)
class DraftModel:
    """acceptance: of all its guesses; population: how alike streams are."""

    acceptance: AcceptanceEstimate = field(default_factory=_untried)
    population: Population = field(default_factory=Population)

    def of_one(self) -> AcceptanceEstimate:
        """What to expect of a stream that nothing is known of yet."""
        return self.acceptance.of_one(self.population.weight)
