"""Plans under other observations than those they were made for."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from policies.acceptance import Floats
from policies.ahead import ahead_of
from policies.cycle import CycleCost, CyclePlan
from policies.describe import describe
from policies.plan import Kind, Observation, Plan, kind_of
from policies.play import played_cost
from policies.problem import CycleProblem, problem_of


def price_of(observation: Observation, plan: Plan) -> float:
    """The price of a plan under an observation, which may be newer than what it was made for.

    Streams that the plan does not know are taken as plain, those that left are ignored.
    """
    return _cost_of(problem_of(observation), plan)[2].price_s


def repriced(observation: Observation, plan: Plan) -> Plan:
    """The plan with its prediction and reasons made anew, for its streams in its own order."""
    return Priced.of(observation, plan, problem_of(observation)).described()


@dataclass(frozen=True, slots=True)
class Priced:
    """A plan under an observation as far as its price: most of those that are compared need no
    more. price_s: with what drafting ahead saves."""

    observation: Observation
    plan: Plan
    problem: CycleProblem
    cycle: CyclePlan
    cost: CycleCost
    ahead: tuple[Floats, float] | None

    @classmethod
    def of(cls, observation: Observation, plan: Plan, problem: CycleProblem) -> Priced:
        """problem: of the observation."""
        turned, cycle, cost = _cost_of(problem, plan)
        may_go_ahead = plan.is_cheapest and plan.overlap and not plan.equal_shares
        ahead = ahead_of(observation, turned, cycle, cost) if may_go_ahead else None
        return cls(observation, plan, turned, cycle, cost, ahead)

    @property
    def price_s(self) -> float:
        return self.cost.price_s * (1.0 - (self.ahead[1] if self.ahead is not None else 0.0))

    @property
    def num_batches(self) -> int:
        """In which somebody guesses."""
        bounds, gammas = self.cycle.bounds, self.cycle.gammas
        return sum(bool(gammas[a:b].any()) for a, b in itertools.pairwise(bounds))

    @property
    def kind(self) -> Kind:
        return kind_of(self.num_batches, int((self.cycle.gammas == 0).sum()))

    def described(self) -> Plan:
        plan = self.plan
        made = describe(
            self.observation,
            self.problem,
            self.cycle,
            plan.policy,
            self.cost,
            plan.rejected,
            ahead=self.ahead,
        )
        return replace(
            made,
            overlap=plan.overlap,
            equal_shares=plan.equal_shares,
            is_cheapest=plan.is_cheapest,
        )


def _cost_of(problem: CycleProblem, plan: Plan) -> tuple[CycleProblem, CyclePlan, CycleCost]:
    turned, cycle = _in_plan_order(problem, plan)
    cost = played_cost(turned, cycle, equal_shares=plan.equal_shares, overlap=plan.overlap)
    return turned, cycle, cost


def _in_plan_order(problem: CycleProblem, plan: Plan) -> tuple[CycleProblem, CyclePlan]:
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
    turned = problem.in_order(np.array(order, dtype=np.int64))
    kept = np.clip(np.array(gammas, dtype=np.int64), turned.least, turned.most)
    return turned, CyclePlan(tuple(bounds), kept)
