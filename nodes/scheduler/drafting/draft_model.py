"""What is known of a draft model's guesses for one target, whichever nodes make them."""

from __future__ import annotations

from dataclasses import dataclass, field

from policies.acceptance import AcceptanceEstimate
from policies.population import Population

# Of rounds of single streams: some hundreds, or a model would be taken for what its last few
# streams were.
_MEMORY = 0.998
# What was measured of a model counts as so many guesses, against those seen.
_MEASURED_GUESSES = 10.0


def _untried() -> AcceptanceEstimate:
    return AcceptanceEstimate(memory=_MEMORY)


@dataclass(slots=True)
class DraftModel:
    """acceptance: of all its guesses, which estimates of streams fall back on, so that it is never
    another one; population: how alike streams are."""

    acceptance: AcceptanceEstimate = field(default_factory=_untried)
    population: Population = field(default_factory=Population)
    is_measured: bool = False

    def expect(self, measured: AcceptanceEstimate) -> None:
        """Begin with what was measured of the model, unless something is known already."""
        if not self.is_measured and self.acceptance.is_untried:
            self.is_measured = True
            self.acceptance.begin_as(measured, _MEASURED_GUESSES)

    def of_one(self) -> AcceptanceEstimate:
        """What to expect of a stream that nothing is known of yet."""
        return self.acceptance.of_one(self.population.weight)

    def now_of(self, stream: AcceptanceEstimate) -> AcceptanceEstimate:
        """What to expect of a stream that this model guesses for from now on, where that was
        another one: how hard its text is says something of it, what the other is known for not."""
        if stream.basis is None or stream.basis is self.acceptance:
            return stream
        return stream.beside(self.acceptance, self.population.weight)
