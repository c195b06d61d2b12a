"""Baselines for comparison: policies with the same signature, priced by the same evaluator.

They keep a client's own gamma, as the joint planner does.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import numpy as np

from airdraft.policies.cycle import CyclePlan, evaluate
from airdraft.policies.describe import Scheme, policy_of
from airdraft.policies.joint import joint_plan
from airdraft.policies.paper import paper_plan
from airdraft.policies.plan import MAX_AUTO_GAMMA, Policy
from airdraft.policies.problem import CycleProblem, Ints


def equal_bounds(num_streams: int, num_batches: int) -> tuple[int, ...]:
    """Returns positions that cut streams into batches of nearly equal size."""
    num_batches = min(num_streams, num_batches)
    return tuple((m * num_streams) // num_batches for m in range(num_batches + 1))


def uniform_gammas(problem: CycleProblem, gamma: int) -> Ints:
    """(n,) the same gamma for all, within the bounds of each stream."""
    gammas: Ints = np.clip(gamma, problem.least, problem.most)
    return gammas


def uniform(num_batches: int, gammas: Sequence[int]) -> Scheme:
    """Returns a scheme of so many equal batches, at most one a stream, with the cheapest of these
    gammas for all streams."""

    def scheme(problem: CycleProblem) -> CyclePlan:
        bounds = equal_bounds(problem.num_streams, num_batches)
        plans = [CyclePlan(bounds, uniform_gammas(problem, gamma)) for gamma in gammas]
        return min(plans, key=lambda plan: evaluate(problem, plan).price_s)

    return scheme


def greedy(problem: CycleProblem) -> CyclePlan:
    """Batches of the size at which the target verifies a token cheapest.

    It considers only the target's time and neither rounds nor draft nodes: it takes the size b and
    the gamma with the least v(b (gamma + 1)) / (b E(gamma)) at the mean acceptance.
    """
    n = problem.num_streams
    sizes = np.arange(1, n + 1)
    best = (np.inf, 0, n)
    for gamma in range(min(MAX_AUTO_GAMMA, problem.max_gamma) + 1):
        earned = problem.earned[:, gamma].mean()
        cost = problem.target_s[sizes * (gamma + 1)] / (sizes * earned)
        size = int(cost.argmin())
        best = min(best, (float(cost[size]), gamma, size + 1))
    bounds = equal_bounds(n, -(-n // best[2]))
    return CyclePlan(bounds, uniform_gammas(problem, best[1]))


_ANY_GAMMA = range(MAX_AUTO_GAMMA + 1)
SCHEMES: Mapping[str, Scheme] = {
    # No guesses: every stream gets one token a pass.
    "ad": uniform(1, (0,)),
    # Four guesses at any cost, with all streams in one batch, or in two that take turns.
    "fixed-gamma": uniform(1, (4,)),
    "fixed-gamma-alternating": uniform(2, (4,)),
    "max-batch": uniform(1, _ANY_GAMMA),
    # Every stream in a batch of its own.
    "single-stream": uniform(sys.maxsize, _ANY_GAMMA),
    # One batch is drafted while the other is verified.
    "alternating": uniform(2, _ANY_GAMMA),
    "greedy": greedy,
}


POLICIES: Mapping[str, Policy] = {
    "joint": joint_plan,
    **{name: policy_of(name, scheme) for name, scheme in SCHEMES.items()},
    "paper": paper_plan,
}
