"""Turns a cycle into a plan with its figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from airdraft.policies.cycle import CycleCost, CyclePlan, evaluate
from airdraft.policies.plan import Batch, BatchTimes, Observation, Plan, Policy, Prediction
from airdraft.policies.problem import CycleProblem, problem_of

# Chooses a cycle for a problem.
Scheme: TypeAlias = Callable[[CycleProblem], CyclePlan]


def policy_of(name: str, scheme: Scheme) -> Policy:
    """Returns a scheme as a policy."""

    def policy(observation: Observation) -> Plan:
        early = trivial_plan(observation, name)
        if early is not None:
            return early
        problem = problem_of(observation)
        return describe(problem, scheme(problem), name)

    return policy


def trivial_plan(observation: Observation, name: str) -> Plan | None:
    """Returns the plan without guesses if there are no streams or no costs of the target."""
    if observation.streams and observation.target is not None:
        return None
    return Plan(plain=tuple(view.stream_id for view in observation.streams), policy=name)


def describe(problem: CycleProblem, chosen: CyclePlan, name: str) -> Plan:
    """Returns a cycle as a plan. Streams without guesses become plain."""
    cost = evaluate(problem, chosen)
    batches, times = [], []
    plain: list[int] = []
    for m, (first, end) in enumerate(zip(chosen.bounds, chosen.bounds[1:], strict=False)):
        gammas = chosen.gammas[first:end].tolist()
        members = list(zip(problem.stream_ids[first:end], gammas, strict=True))
        guessing = [member for member in members if member[1] > 0]
        plain += [stream_id for stream_id, gamma in members if gamma == 0]
        if guessing:
            ids, caps = zip(*guessing, strict=True)
            batches.append(Batch(ids, caps))
            times.append(_times(cost, m))
    return Plan(
        batches=tuple(batches),
        plain=tuple(plain),
        policy=name,
        prediction=Prediction(
            cost.cycle_s,
            _bound(problem, cost, bool(batches)),
            cost.price_s,
            _tokens_per_s(problem, chosen, cost),
            tuple(times),
        ),
    )


def _times(cost: CycleCost, m: int) -> BatchTimes:
    stages = cost.stages
    return BatchTimes(
        float(stages.draft_s[:, m].max()),
        float(stages.air_s[:, m].sum()),
        float(cost.verify_s[m]),
        float(cost.round_s[m]),
        round(float(stages.num_tokens[m])),
    )


def _bound(problem: CycleProblem, cost: CycleCost, guesses: bool) -> str:
    """Returns the name of the longest term of C."""
    if not guesses:
        return "target"
    if cost.cycle_s > cost.natural_s * 1.001:
        return "plain streams"
    terms = [("target", float(cost.verify_s.sum()))]
    sums = zip(problem.node_names, cost.stages.draft_s.sum(axis=1), strict=True)
    terms += [(f"draft node {name}", float(seconds)) for name, seconds in sums]
    air = zip(problem.medium_names, cost.stages.air_s.sum(axis=1), strict=True)
    terms += [(name, float(seconds)) for name, seconds in air]
    slowest = int(cost.round_s.argmax())
    # Batches without guesses do not count, as in the plan.
    number = int((cost.verify_s[: slowest + 1] > 0).sum())
    name, longest_s = max(terms, key=lambda term: term[1])
    # If C is longer than all of these, a round with its waits for the air is the longest term.
    return name if longest_s * (1.0 + 1e-9) >= cost.natural_s else f"round of batch {number}"


def _tokens_per_s(problem: CycleProblem, chosen: CyclePlan, cost: CycleCost) -> float:
    guessing = chosen.gammas > 0
    rows = np.flatnonzero(guessing)
    earned = problem.earned[rows, chosen.gammas[rows]].sum()
    num_plain = int((~guessing).sum())
    if not len(rows):
        return num_plain / cost.cycle_s
    if num_plain == 0:
        return float(earned / cost.cycle_s)
    passes = (cost.verify_s > 0).sum()
    passes += (cost.cycle_s - cost.verify_s.sum()) / problem.plain_pass_s(num_plain)
    return float((earned + num_plain * passes) / cost.cycle_s)
