"""Drafting ahead: guesses of the next round, made while those of this one are verified.

A draft node that has answered goes on as if all guesses were accepted and the target's own next
token were its own next one. Stream k is so lucky with the chance p_k = alpha_k^(gamma_k + 1). Where
all streams of a batch are, the next round's guesses are there when they are asked for, as far as
the time of the verify sufficed; one that is not has to be drafted for in as many steps as before.
So the lap of batch m shortens by

    prod p_k * min(1, free_s / ahead_s) * draft_s,

ahead_s being the gamma + 1 steps that go ahead and free_s the time of a cycle in which the node has
nothing else to do. Where that does not suffice, what comes next finds it in the middle of a step,
half a step on average. All this is worth something only where the lap bounds the cycle.
"""

from __future__ import annotations

import numpy as np

from policies.acceptance import Floats
from policies.cycle import CycleCost, CyclePlan, laps_with_waits
from policies.plan import Observation
from policies.problem import CycleProblem, Ints

# It must shorten the cycle by this part of it, for what is predicted is not certain.
_MARGIN = 0.03


def ahead_gains_s(problem: CycleProblem, plan: CyclePlan, cost: CycleCost) -> Floats:
    """(m,) seconds by which drafting ahead shortens each batch's lap, on average.

    0 where that is less than 3 % of C.
    """
    num_batches = len(plan.bounds) - 1
    gains_s = np.zeros(num_batches)
    busy_s = cost.stages.draft_s.sum(axis=1)
    for m, (first, end) in enumerate(zip(plan.bounds, plan.bounds[1:], strict=False)):
        mine = first + np.flatnonzero(plan.gammas[first:end])
        if not len(mine):
            continue
        ahead_s = _ahead_s(problem, mine, plan.gammas)
        used = np.flatnonzero(ahead_s)
        longest = used[cost.stages.draft_s[used, m].argmax()]
        chance = float(np.prod(problem.alphas[mine] ** (plan.gammas[mine] + 1)))
        free = np.maximum(0.0, cost.cycle_s - busy_s[used]) / ahead_s[used]
        gain_s = chance * min(1.0, float(free.min())) * float(cost.stages.draft_s[longest, m])
        if free.min() < 1.0:
            gain_s -= (1.0 - chance) * float(problem.draft_s[longest, 1]) / 2
        if gain_s >= _MARGIN * cost.cycle_s:
            gains_s[m] = gain_s
    return gains_s


def cycle_gain_s(cost: CycleCost, gains_s: Floats) -> float:
    """Seconds by which a cycle gets shorter whose laps do: what else bounds it stays."""
    air_s = cost.stages.air_s.sum(axis=1).max()
    num_batches = np.array((cost.verify_s > 0).sum(), dtype=np.float64)
    before_s, after_s = (
        max(cost.busiest_s, float(laps_with_waits(laps_s.max(initial=0.0), air_s, num_batches)))
        for laps_s in (cost.lap_s, cost.lap_s - gains_s)
    )
    # A cycle drawn out for plain streams is none of the laps' business.
    return before_s - after_s if cost.cycle_s <= cost.natural_s * 1.001 else 0.0


def _ahead_s(problem: CycleProblem, mine: Ints, gammas: Ints) -> Floats:
    """(J,) seconds that each draft node runs ahead for streams of one batch."""
    ahead_s = np.zeros(len(problem.node_names))
    for node in np.unique(problem.nodes[mine]):
        here = gammas[mine][problem.nodes[mine] == node]
        steps = np.arange(1, int(here.max()) + 2)
        beside = (here[None, :] + 1 >= steps[:, None]).sum(axis=1)
        ahead_s[node] = problem.draft_s[node, beside].sum()
    return ahead_s


def ahead_of(
    observation: Observation, problem: CycleProblem, chosen: CyclePlan, cost: CycleCost
) -> tuple[Floats, float]:
    """Seconds that each batch's lap gains by drafting ahead, and the part of the cycle it saves."""
    none = np.zeros(len(chosen.bounds) - 1), 0.0
    if not chosen.gammas.any():
        return none
    gains_s = ahead_gains_s(problem, chosen, cost)
    gain_s = cycle_gain_s(cost, gains_s) if gains_s.any() else 0.0
    loss_s = (observation.ahead_overrun - 1.0) * cost.cycle_s
    return (gains_s, gain_s / cost.cycle_s) if gain_s > loss_s else none
