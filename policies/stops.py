"""When a draft should stop: the least chance of being accepted at which a guess pays.

One guess more makes the cycle C longer by dC and, where it is accepted with chance p, adds p to
what its stream commits. With F the price of the plan, w the stream's weight and E what it commits
in a cycle, F changes by dC F/C - p C w/E^2, so the guess pays from

    p = (dC F/C) / (C w/E^2).

p is the chance that this guess and all before it are accepted. dC is what the guess adds to the
stages that bound the cycle: tables have steps, so slopes are means over some tokens. A guess of a
stream with a long text takes more of the target's time than one of a short one.
"""

from __future__ import annotations

import numpy as np

from policies.acceptance import Floats
from policies.cycle import CycleCost, CyclePlan
from policies.problem import CycleProblem

# A stage this near the longest bounds the cycle too: plans are balanced, and tables noisy.
_NEARLY = 0.9
# Between the first token of a pass and the second there often is a step, which all guesses share.
_LEAST_REACH = 2


def stop_chances(problem: CycleProblem, plan: CyclePlan, cost: CycleCost) -> Floats:
    """(n,) least chances, whole percent in [0, 1].

    0 for streams that make no guesses, and for those whose client asked for a number of them.
    """
    chances = np.zeros(problem.num_streams)
    limit_s = _NEARLY * cost.natural_s
    # Where the cycle is drawn out for plain streams, each second of the target is one of theirs.
    target_binds = bool(cost.verify_s.sum() >= limit_s or cost.cycle_s > cost.natural_s * 1.001)
    busy = cost.stages.draft_s.sum(axis=1) >= limit_s, cost.stages.air_s.sum(axis=1) >= limit_s
    num_plain = int((plan.gammas == 0).sum())
    for m, (first, end) in enumerate(zip(plan.bounds, plan.bounds[1:], strict=False)):
        mine = first + np.flatnonzero(plan.gammas[first:end])
        if not len(mine):
            continue
        nodes = problem.nodes[mine]
        reach = max(_LEAST_REACH, len(mine))
        slope_s = _slope(problem.target_s, cost.stages.num_tokens[m] + num_plain, reach)
        verify_s = np.maximum(0.0, slope_s + problem.extra_s[mine])
        beside = np.bincount(nodes, minlength=len(problem.node_names))
        # A step serves all streams of the batch that the node still drafts for.
        draft_s = problem.draft_s[nodes, beside[nodes]] / beside[nodes]
        air_s = problem.token_air_s[nodes]
        lap_binds = cost.lap_s[m] >= limit_s
        added_s = np.maximum(
            np.where(lap_binds, verify_s + draft_s + air_s, verify_s * target_binds),
            np.maximum(draft_s * busy[0][nodes], air_s * busy[1][problem.media[nodes]]),
        )
        worth = problem.weights[mine] / problem.earned[mine, plan.gammas[mine]] ** 2
        is_free = problem.least[mine] == 0
        chances[mine] = is_free * added_s / cost.cycle_s * cost.price_s / cost.cycle_s / worth
    # Whole percent: nothing finer is known, and two equal plans have equal stops.
    rounded: Floats = np.clip(np.nan_to_num(chances, nan=1.0), 0.0, 1.0).round(2)
    return rounded


def _slope(table: Floats, num_tokens: float, reach: int) -> float:
    """Seconds that a token adds to a pass, over `reach` tokens on either side."""
    last = len(table) - 1
    high = min(last, int(num_tokens) + reach)
    low = max(1, int(num_tokens) - reach)
    if high <= low:
        return 0.0
    return float((table[high] - table[low]) / (high - low))
