"""The schemes by their definitions in plain loops; and no joint plan predicted worse than any."""

import os
from random import Random

import numpy as np
import pytest

from policies.baselines import POLICIES, SCHEMES
from policies.cycle import evaluate
from policies.joint import best_plan, joint_plan
from policies.plan import Observation
from policies.problem import problem_of
from tests.policies.instances import batches_of, observation
from tests.policies.slow_cycle import SlowCycle

# 10,000 take about a minute; fewer or more by this.
NUM_CASES = int(os.environ.get("AIRDRAFT_PLAN_CASES", "2000"))
NUM_PARTS = 40
MAX_SINGLES = 48
# Guesses are kept off unless they promise this much: so much dearer may a joint plan be.
MARGIN = 0.05


class Slowly:
    """The schemes once more: prices of batches by the plain-Python reference."""

    def __init__(self, seen):
        self.slow = SlowCycle(seen)
        self.views = sorted(seen.streams, key=lambda view: (view.alpha, view.stream_id))

    def gamma_of(self, view, gamma):
        least, most = self.slow.bounds_of(view)
        return min(max(gamma, least), most)

    def price_s(self, sizes, gamma):
        views = iter(self.views)
        batches = []
        for size in sizes:
            batch = [next(views) for _ in range(size)]
            batches.append([(view.stream_id, self.gamma_of(view, gamma)) for view in batch])
        return self.slow.price(batches).price_s

    def halves(self):
        n = len(self.views)
        return [n // 2, n - n // 2] if n > 1 else [1]

    def best(self, sizes):
        return min(self.price_s(sizes, gamma) for gamma in range(9))

    def prices(self):
        n = len(self.views)
        return {
            "ad": self.price_s([n], 0),
            "fixed-gamma": self.price_s([n], 4),
            "fixed-gamma-alternating": self.price_s(self.halves(), 4),
            "max-batch": self.best([n]),
            "single-stream": self.best([1] * n),
            "alternating": self.best(self.halves()),
        }

    def greedy_cost(self, size, gamma):
        """What the target spends on a token where `size` streams are verified at once."""
        earned = [self.slow.earned(view.stream_id, gamma) for view in self.views]
        return self.slow.verify_s(size * (gamma + 1)) / (size * sum(earned) / len(earned))


def test_schemes_are_what_they_are_named():
    for seed in range(60):
        seen = observation(seed, 1 + seed % 9)
        problem, slowly = problem_of(seen), Slowly(seen)
        for name, price_s in slowly.prices().items():
            found = evaluate(problem, SCHEMES[name](problem)).price_s
            assert found == pytest.approx(price_s, rel=1e-9), (name, seed)


def test_greedy_verifies_as_many_at_once_as_makes_a_token_cheapest():
    sizes_seen = set()
    for seed in range(80):
        seen = observation(seed, 1 + seed % 9)
        problem, slowly = problem_of(seen), Slowly(seen)
        plan = SCHEMES["greedy"](problem)
        n = problem.num_streams
        costs = {
            (size, gamma): slowly.greedy_cost(size, gamma)
            for size in range(1, n + 1)
            for gamma in range(min(8, problem.max_gamma) + 1)
        }
        num_batches = len(plan.bounds) - 1
        cheapest = min(costs.values())
        fitting = {
            gamma
            for (size, gamma), cost in costs.items()
            if cost <= cheapest * (1 + 1e-9) and -(-n // size) == num_batches
        }
        assert any(
            plan.gammas.tolist() == np.clip(gamma, problem.least, problem.most).tolist()
            for gamma in fitting
        )
        sizes_seen.add(num_batches)
    assert len(sizes_seen) > 3


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_answers_with_all_streams_and_a_true_prediction(name):
    for seed in range(60):
        seen = observation(seed, 1 + seed % 20, target_on_air=seed % 3 == 0)
        plan = POLICIES[name](seen)
        assert plan.policy == name
        if name in ("uniform-air", "no-overlap"):
            joint = joint_plan(seen)
            assert (plan.batches, plan.plain) == (joint.batches, joint.plain)
        assert (plan.equal_shares, plan.overlap) == (name == "uniform-air", name != "no-overlap")
        slow, batches = SlowCycle(seen), batches_of(plan)
        for stream_id, gamma in (pair for batch in batches for pair in batch):
            least, most = slow.bounds_of(slow.streams[stream_id])
            assert least <= gamma <= most
        assert all(gamma > 0 for batch in plan.batches for gamma in batch.gammas)
        # The reference also looks whether each stream has one place.
        price = slow.price(batches, equal_shares=plan.equal_shares, overlap=plan.overlap)
        assert plan.prediction is not None
        assert plan.prediction.price_s == pytest.approx(price.price_s, rel=1e-9)
        assert plan.prediction.cycle_s == pytest.approx(price.cycle_s, rel=1e-6)


@pytest.mark.parametrize("name", POLICIES)
def test_without_streams_or_costs_there_is_nothing_to_plan(name):
    seen = observation(1, 3)
    empty = POLICIES[name](Observation((), seen.target, seen.drafts))
    assert (empty.batches, empty.plain, dict(empty.reasons)) == ((), (), {})
    ids = [view.stream_id for view in seen.streams]
    blind = POLICIES[name](Observation(seen.streams, None, seen.drafts))
    assert (blind.batches, list(blind.plain), blind.prediction) == ((), ids, None)
    assert blind.policy == name
    assert dict(blind.reasons) == dict.fromkeys(ids, "draft off: no costs")


@pytest.mark.slow
@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_no_joint_plan_is_predicted_worse_than_any_scheme(part):
    """Mostly few streams, now and then many: more than the planner has blocks for."""
    random = Random(part)
    worse = []
    for case in range(NUM_CASES // NUM_PARTS):
        num_streams = random.choice((*range(1, 17), random.randint(17, 40)))
        if random.random() < 0.01:
            num_streams = random.randint(65, 100)
        seed = 1_000_000 * part + case
        seen = observation(seed, num_streams, target_on_air=case % 4 == 0)
        problem = problem_of(seen)
        prices = {name: evaluate(problem, s(problem)).price_s for name, s in SCHEMES.items()}
        if num_streams > MAX_SINGLES:
            # The planner never makes so many batches, however cheap they would be.
            del prices["single-stream"]
        name, cheapest = min(prices.items(), key=lambda item: item[1])
        price_s = best_plan(problem).price_s
        if price_s > cheapest * (1 + 1e-9):
            worse.append((seed, num_streams, name, price_s / cheapest - 1))
        if case % 5 == 0:
            made = joint_plan(seen).prediction
            assert made is not None
            assert made.price_s <= cheapest / (1 - MARGIN) * (1 + 1e-9) or worse
    assert worse == []
