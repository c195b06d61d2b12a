"""Small changes to a plan and their prices, which show what its guesses and batches gain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

from policies.plan import Batch, Plan
from policies.priced import in_plan_order, price_of
from policies.problem import CycleProblem

# In plans of more batches than this, changes of single batches are left out.
_MAX_BATCHES_ONE_BY_ONE = 6
# For each batch, pairs of a stream and its number of guesses.
_Cuts: TypeAlias = list[list[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class Change:
    """A plan that differs a little.

    batch: number of the changed batch, from 1; 0 for all. relative: by what share its price is
    higher than the plan's, 0.1 for 10 %.
    """

    batch: int
    what: str
    price_s: float
    relative: float


def changes_of(problem: CycleProblem, plan: Plan) -> list[Change]:
    """Returns possible changes of the guesses, the batches, and the set of plain streams.

    Changes that clients' gammas or the tokens left forbid are omitted.
    """
    assert plan.prediction is not None
    most = dict(zip(problem.stream_ids, problem.most.tolist(), strict=True))
    able = [stream_id for stream_id in plan.plain if most[stream_id] > 0]
    if plan.batches:
        _, kept = in_plan_order(problem, plan)
        fixed = {s for s, least in zip(problem.stream_ids, problem.least, strict=True) if least > 0}
        cuts = [list(zip(b.stream_ids, b.gammas, strict=True)) for b in plan.batches]
        found = []
        for batch, what, changed in _neighbours(cuts, able, fixed):
            _, cycle = in_plan_order(problem, _with(plan, changed))
            if (cycle.bounds, cycle.gammas.tolist()) != (kept.bounds, kept.gammas.tolist()):
                found.append((batch, what, price_of(problem, _with(plan, changed))))
    else:
        found = list(_first_guesses(problem, plan, able))
    return [Change(*change, change[2] / plan.prediction.price_s - 1.0) for change in found]


def _neighbours(
    cuts: _Cuts, able: Sequence[int], fixed: set[int]
) -> Iterator[tuple[int, str, _Cuts]]:
    """Yields a batch's number, what is changed, and the changed cuts.

    able: plain streams that may have guesses. fixed: streams whose clients set some guesses.
    """
    for step, what in ((-1, "one guess fewer"), (1, "one guess more")):
        yield 0, what, [_shifted(batch, step) for batch in cuts]
        if 1 < len(cuts) <= _MAX_BATCHES_ONE_BY_ONE:
            for m, batch in enumerate(cuts):
                yield m + 1, what, [*cuts[:m], _shifted(batch, step), *cuts[m + 1 :]]
    guessing = [pair for batch in cuts for pair in batch]
    for num in (len(cuts) - 1, len(cuts) + 1):
        if 1 <= num <= len(guessing):
            yield 0, f"{num} batch{'es' if num > 1 else ''}", _equal(guessing, num)
    if able:
        least = min(gamma for _, gamma in guessing)
        more = [(stream_id, least) for stream_id in able]
        yield 0, "no plain streams", [[*more, *cuts[0]], *cuts[1:]]
    num_fixed = sum(stream_id in fixed for stream_id, _ in guessing)
    if num_fixed < len(guessing):
        yield 0, "no guesses" + (" except those set by clients" if num_fixed else ""), []


def _first_guesses(
    problem: CycleProblem, plan: Plan, able: Sequence[int]
) -> Iterator[tuple[int, str, float]]:
    """Yields the best single number of guesses, in one batch and in two."""
    for num in range(1, min(2, len(able)) + 1):
        price_s, gamma = min(
            (price_of(problem, _with(plan, _equal([(s, gamma) for s in able], num))), gamma)
            for gamma in range(1, problem.max_gamma + 1)
        )
        guesses = "1 guess" if gamma == 1 else f"{gamma} guesses"
        yield 0, f"{guesses} each in {num} batch{'es' if num > 1 else ''}", price_s


def _shifted(batch: list[tuple[int, int]], step: int) -> list[tuple[int, int]]:
    return [(stream_id, gamma + step) for stream_id, gamma in batch]


def _equal(guessing: list[tuple[int, int]], num: int) -> _Cuts:
    at = [(m * len(guessing)) // num for m in range(num + 1)]
    return [guessing[a:b] for a, b in pairwise(at)]


def _with(plan: Plan, cuts: _Cuts) -> Plan:
    batches = (Batch(*zip(*batch, strict=True)) for batch in cuts)
    return replace(plan, batches=tuple(batches))
