"""The price of a plan under an observation other than the one it was made for."""

from __future__ import annotations

import numpy as np

from policies.cycle import CyclePlan, evaluate
from policies.plan import Observation, Plan
from policies.problem import CycleProblem, problem_of


def price_of(observation: Observation, plan: Plan) -> float:
    """Returns the price of a plan under an observation, which may be newer than the plan.

    Streams that the plan lacks count as plain; streams that have left are ignored.
    """
    ordered, cycle = in_plan_order(problem_of(observation), plan)
    return evaluate(ordered, cycle, equal_shares=plan.equal_shares, overlap=plan.overlap).price_s


def in_plan_order(problem: CycleProblem, plan: Plan) -> tuple[CycleProblem, CyclePlan]:
    """Returns a problem in the order of a plan's batches, and the plan as cuts of it.

    Streams that are in no batch come last, as one batch without guesses.
    """
    at = {stream_id: k for k, stream_id in enumerate(problem.stream_ids)}
    order: list[int] = []
    gammas: list[int] = []
    bounds = [0]
    for batch in plan.batches:
        for stream_id, gamma in zip(batch.stream_ids, batch.gammas, strict=True):
            k = at.pop(stream_id, None)
            if k is not None:
                order.append(k)
                gammas.append(gamma)
        if len(order) > bounds[-1]:
            bounds.append(len(order))
    order += at.values()
    gammas += [0] * len(at)
    if len(order) > bounds[-1]:
        bounds.append(len(order))
    ordered = problem.in_order(np.array(order, dtype=np.int64))
    kept = np.clip(np.array(gammas, dtype=np.int64), ordered.least, ordered.most)
    return ordered, CyclePlan(tuple(bounds), kept)
