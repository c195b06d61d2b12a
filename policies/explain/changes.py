"""Small changes to a plan and their prices, which show what its guesses and batches gain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

from policies.plan import Batch, Observation, Plan
from policies.priced import price_of
from policies.problem import CycleProblem

# In plans of more batches than this, changes of single batches are left out.
_MAX_BATCHES_ONE_BY_ONE = 6
# For each batch, pairs of a stream and its number of guesses.
_Cuts: TypeAlias = list[list[tuple[int, int]]]
# By stream: least and most guesses.
_Limits: TypeAlias = dict[int, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Change:
    """A plan that differs a little. batch: number of the changed batch, from 1; 0 for all."""

    batch: int
    what: str
    price_s: float


def changes_of(observation: Observation, problem: CycleProblem, plan: Plan) -> list[Change]:
    """Returns possible changes of the guesses, the batches, and the set of plain streams.

    problem: that of the observation. Changes that clients' gammas or the tokens left forbid are
    omitted.
    """
    bounds = list(zip(problem.least.tolist(), problem.most.tolist(), strict=True))
    limits = dict(zip(problem.stream_ids, bounds, strict=True))
    cuts = [list(zip(b.stream_ids, b.gammas, strict=True)) for b in plan.batches]
    if not cuts:
        return _first_guesses(observation, limits, plan)
    found = []
    for batch, what, changed in _neighbours(cuts, limits, plan.plain):
        kept = _within(changed, limits)
        if kept != cuts:
            found.append(Change(batch, what, _price_s(observation, plan, kept)))
    return found


def _neighbours(
    cuts: _Cuts, limits: _Limits, plain: Sequence[int]
) -> Iterator[tuple[int, str, _Cuts]]:
    for step, what in ((-1, "one guess fewer"), (1, "one guess more")):
        yield 0, what, [_shifted(batch, step) for batch in cuts]
        if 1 < len(cuts) <= _MAX_BATCHES_ONE_BY_ONE:
            for m, batch in enumerate(cuts):
                yield m + 1, what, [*cuts[:m], _shifted(batch, step), *cuts[m + 1 :]]
    guessing = [pair for batch in cuts for pair in batch]
    for num in (len(cuts) - 1, len(cuts) + 1):
        if 1 <= num <= len(guessing):
            yield 0, f"{num} batch{'es' if num > 1 else ''}", _equal(guessing, num)
    able = [stream_id for stream_id in plain if limits[stream_id][1] > 0]
    if able:
        least = min(gamma for _, gamma in guessing)
        more = [(stream_id, least) for stream_id in able]
        yield 0, "no plain streams", [[*more, *cuts[0]], *cuts[1:]]
    is_fixed = [limits[stream_id][0] > 0 for stream_id, _ in guessing]
    if not all(is_fixed):
        yield 0, "no guesses" + (" except those set by clients" if any(is_fixed) else ""), []


def _first_guesses(observation: Observation, limits: _Limits, plan: Plan) -> list[Change]:
    """Returns the best single number of guesses, in one batch and in two."""
    able = [stream_id for stream_id in plan.plain if limits[stream_id][1] > 0]
    found = []
    for num in range(1, min(2, len(able)) + 1):
        priced = []
        for gamma in range(1, max(most for _, most in limits.values()) + 1):
            cuts = _within(_equal([(s, gamma) for s in able], num), limits)
            priced.append((_price_s(observation, plan, cuts), gamma))
        price_s, gamma = min(priced)
        guesses = "1 guess" if gamma == 1 else f"{gamma} guesses"
        what = f"{guesses} each in {num} batch{'es' if num > 1 else ''}"
        found.append(Change(0, what, price_s))
    return found


def _shifted(batch: list[tuple[int, int]], step: int) -> list[tuple[int, int]]:
    return [(stream_id, gamma + step) for stream_id, gamma in batch]


def _equal(guessing: list[tuple[int, int]], num: int) -> _Cuts:
    at = [(m * len(guessing)) // num for m in range(num + 1)]
    return [guessing[a:b] for a, b in pairwise(at)]


def _within(cuts: _Cuts, limits: _Limits) -> _Cuts:
    """Returns batches with gammas within each stream's limits, without streams of gamma 0."""
    clipped = [[(s, min(max(g, limits[s][0]), limits[s][1])) for s, g in batch] for batch in cuts]
    guessing = [[(s, g) for s, g in batch if g > 0] for batch in clipped]
    # Streams that must have guesses and are in no batch form another batch.
    placed = {s for batch in guessing for s, _ in batch}
    bound = [(s, least) for s, (least, _) in limits.items() if least > 0 and s not in placed]
    return [batch for batch in [*guessing, bound] if batch]


def _price_s(observation: Observation, plan: Plan, cuts: _Cuts) -> float:
    batches = tuple(Batch(tuple(s for s, _ in batch), tuple(g for _, g in batch)) for batch in cuts)
    guessing = {s for batch in cuts for s, _ in batch}
    plain = tuple(v.stream_id for v in observation.streams if v.stream_id not in guessing)
    return price_of(observation, replace(plan, batches=batches, plain=plain))
