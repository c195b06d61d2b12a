"""Baselines for comparison: policies with the same signature, priced by the same evaluator.

They keep a client's own gamma, as the joint planner does. uniform-air and no-overlap price the
joint planner's plan under a handicap, of the link or of the schedule.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from policies.cycle import CyclePlan, evaluate
from policies.describe import Scheme, policy_of
from policies.joint import joint_cycle, joint_plan
from policies.paper import paper_plan
from policies.plan import MAX_AUTO_GAMMA, Policy
from policies.problem import CycleProblem, Ints

_FIXED_GAMMA = 4


def equal_bounds(num_streams: int, num_batches: int) -> tuple[int, ...]:
    """Returns positions that cut streams into batches of nearly equal size."""
    num_batches = min(num_streams, num_batches)
    return tuple((m * num_streams) // num_batches for m in range(num_batches + 1))


def uniform_gammas(problem: CycleProblem, gamma: int) -> Ints:
    """(n,) the same gamma for all, within the bounds of each stream."""
    gammas: Ints = np.clip(gamma, problem.least, problem.most)
    return gammas


def best_uniform(problem: CycleProblem, bounds: tuple[int, ...]) -> CyclePlan:
    """Returns the plan with the cheapest single gamma, from 0, for given batches."""
    plans = [
        CyclePlan(bounds, uniform_gammas(problem, gamma)) for gamma in range(MAX_AUTO_GAMMA + 1)
    ]
    return min(plans, key=lambda plan: evaluate(problem, plan).price_s)


def autoregressive(problem: CycleProblem) -> CyclePlan:
    """No guesses: every stream gets one token a pass."""
    return CyclePlan((0, problem.num_streams), uniform_gammas(problem, 0))


def fixed_gamma(problem: CycleProblem) -> CyclePlan:
    """Four guesses at any cost, all streams in one batch."""
    return CyclePlan((0, problem.num_streams), uniform_gammas(problem, _FIXED_GAMMA))


def fixed_gamma_alternating(problem: CycleProblem) -> CyclePlan:
    """Four guesses at any cost, in two batches that take turns."""
    return CyclePlan(equal_bounds(problem.num_streams, 2), uniform_gammas(problem, _FIXED_GAMMA))


def max_batch(problem: CycleProblem) -> CyclePlan:
    """All streams in one batch, with the best single gamma."""
    return best_uniform(problem, (0, problem.num_streams))


def single_stream(problem: CycleProblem) -> CyclePlan:
    """Every stream in a batch of its own, with the best single gamma."""
    return best_uniform(problem, tuple(range(problem.num_streams + 1)))


def alternating(problem: CycleProblem) -> CyclePlan:
    """Two batches, one drafted while the other is verified, with the best single gamma."""
    return best_uniform(problem, equal_bounds(problem.num_streams, 2))


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


SCHEMES: Mapping[str, Scheme] = {
    "ad": autoregressive,
    "fixed-gamma": fixed_gamma,
    "fixed-gamma-alternating": fixed_gamma_alternating,
    "max-batch": max_batch,
    "single-stream": single_stream,
    "alternating": alternating,
    "greedy": greedy,
}


POLICIES: Mapping[str, Policy] = {
    "joint": joint_plan,
    **{name: policy_of(name, scheme) for name, scheme in SCHEMES.items()},
    "paper": paper_plan,
    # The joint plan, where the links of a medium send at once with equal shares of it.
    "uniform-air": policy_of("uniform-air", joint_cycle, equal_shares=True),
    # The joint plan's batches one after another: no node drafts while the target works.
    "no-overlap": policy_of("no-overlap", joint_cycle, overlap=False),
}
