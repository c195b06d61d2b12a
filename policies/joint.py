"""The joint planner as a policy: it chooses batches, speculation lengths and turns together."""

from __future__ import annotations

from policies.cuts import best_plan
from policies.describe import describe, trivial_plan
from policies.plan import Observation, Plan
from policies.problem import problem_of


def joint_plan(observation: Observation) -> Plan:
    """Plan batches, speculation lengths and turns on the air together.

    All streams, except those whose client fixed a number of guesses, are decoded plainly unless
    guesses are predicted to be better.
    """
    early = trivial_plan(observation, "joint")
    if early is not None:
        return early
    problem = problem_of(observation)
    return describe(observation, problem, best_plan(problem).plan, "joint")
