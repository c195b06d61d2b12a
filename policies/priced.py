"""The price of any plan, for example of one that came from another planner or from a trace."""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from policies.cycle import CyclePlan, evaluate
from policies.plan import Plan
from policies.problem import CycleProblem


def price_of(problem: CycleProblem, plan: Plan) -> float:
    """Returns the price of a plan, with its gammas within each stream's bounds."""
    ordered, cycle = in_plan_order(problem, plan)
    return evaluate(ordered, cycle, equal_shares=plan.equal_shares, overlap=plan.overlap).price_s


def in_plan_order(problem: CycleProblem, plan: Plan) -> tuple[CycleProblem, CyclePlan]:
    """Returns a problem in the order of a plan's batches, and the plan as cuts of it.

    Streams that are in no batch come last, as one batch with the fewest guesses that they may have.
    """
    gammas = {
        stream_id: gamma
        for batch in plan.batches
        for stream_id, gamma in zip(batch.stream_ids, batch.gammas, strict=True)
    }
    others = [stream_id for stream_id in problem.stream_ids if stream_id not in gammas]
    groups = [*(batch.stream_ids for batch in plan.batches), others]
    rows = {stream_id: row for row, stream_id in enumerate(problem.stream_ids)}
    ordered = problem.in_order(np.array([rows[s] for group in groups for s in group]))
    wanted = np.array([gammas.get(stream_id, 0) for stream_id in ordered.stream_ids])
    bounds = tuple(accumulate((len(group) for group in groups if group), initial=0))
    return ordered, CyclePlan(bounds, np.clip(wanted, ordered.least, ordered.most))
