"""The joint planner as a policy: it chooses batches, speculation lengths and turns together."""

from __future__ import annotations

from typing import Final

from policies.cuts import best_plan
from policies.cycle import CyclePlan, evaluate
from policies.describe import describe, trivial_plan
from policies.plan import Observation, Plan
from policies.problem import CycleProblem, problem_of

# The minimum of noisy estimates is too low on average, so guesses must be cheaper by this share.
_MARGIN: Final = 0.05


def joint_plan(observation: Observation) -> Plan:
    """Plan batches, speculation lengths and turns on the air together.

    All streams, except those whose client fixed a number of guesses, are decoded plainly unless
    guesses are predicted to be better by 5 %.
    """
    early = trivial_plan(observation, "joint")
    if early is not None:
        return early
    problem = problem_of(observation)
    return describe(observation, problem, joint_cycle(problem), "joint")


def joint_cycle(problem: CycleProblem) -> CyclePlan:
    """Returns the plan of joint_plan() as a cycle."""
    found = best_plan(problem)
    plain = CyclePlan((0, problem.num_streams), problem.least)
    if found.price_s < (1.0 - _MARGIN) * evaluate(problem, plain).price_s:
        return found.plan
    return plain
