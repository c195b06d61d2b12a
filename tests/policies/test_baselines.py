"""The schemes by their definitions; and no joint plan is predicted worse than any of them."""

import os
from random import Random

import numpy as np
import pytest

from airdraft.policies.baselines import POLICIES, SCHEMES
from airdraft.policies.cycle import CyclePlan, evaluate
from airdraft.policies.joint import best_plan, joint_plan
from airdraft.policies.plan import Observation
from airdraft.policies.problem import problem_of
from airdraft.policies.search import MAX_BLOCKS
from tests.policies.instances import batches_of, observation
from tests.policies.slow_cycle import SlowCycle

# 10,000 take about a minute; fewer or more by this.
NUM_CASES = int(os.environ.get("AIRDRAFT_PLAN_CASES", "2000"))
NUM_PARTS = 40
# Guesses are kept off unless they promise this much: so much dearer may a joint plan be.
MARGIN = 0.05


def test_schemes_are_what_they_are_named():
    """With one number of guesses for all: a fixed one, or the cheapest of eight."""
    for seed in range(60):
        problem = problem_of(observation(seed, 1 + seed % 9))
        n = problem.num_streams
        whole, halves = (0, n), (0, n // 2, n) if n > 1 else (0, 1)
        gammas_and_bounds = {
            "ad": ([0], whole),
            "fixed-gamma": ([4], whole),
            "fixed-gamma-alternating": ([4], halves),
            "max-batch": (range(9), whole),
            "single-stream": (range(9), tuple(range(n + 1))),
            "alternating": (range(9), halves),
        }
        for name, (gammas, bounds) in gammas_and_bounds.items():
            held = [np.clip(gamma, problem.least, problem.most) for gamma in gammas]
            prices = [evaluate(problem, CyclePlan(bounds, each)).price_s for each in held]
            plan = SCHEMES[name](problem)
            assert plan.bounds == bounds
            assert plan.gammas.tolist() in [each.tolist() for each in held]
            assert evaluate(problem, plan).price_s == min(prices), (name, seed)


def test_greedy_verifies_as_many_at_once_as_makes_a_token_cheapest():
    sizes_seen = set()
    for seed in range(80):
        seen = observation(seed, 1 + seed % 9)
        problem, slow = problem_of(seen), SlowCycle(seen)
        plan = SCHEMES["greedy"](problem)
        n = problem.num_streams
        costs = {}
        for gamma in range(min(8, problem.max_gamma) + 1):
            earned = [slow.earned(view.stream_id, gamma) for view in seen.streams]
            for size in range(1, n + 1):
                seconds = slow.verify_s(size * (gamma + 1))
                costs[size, gamma] = seconds / (size * sum(earned) / n)
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
        slow, batches, problem = SlowCycle(seen), batches_of(plan), problem_of(seen)
        gammas = dict(pair for batch in batches for pair in batch)
        found = [gammas[stream_id] for stream_id in problem.stream_ids]
        assert np.array_equal(found, np.clip(found, problem.least, problem.most))
        assert all(gamma > 0 for batch in plan.batches for gamma in batch.gammas)
        # The reference also looks whether each stream has one place.
        price = slow.price(batches)
        assert plan.prediction is not None
        assert plan.prediction.price_s == pytest.approx(price.price_s, rel=1e-9)
        assert plan.prediction.cycle_s == pytest.approx(price.cycle_s, rel=1e-6)


@pytest.mark.parametrize("name", POLICIES)
def test_without_streams_or_costs_there_is_nothing_to_plan(name):
    seen = observation(1, 3)
    empty = POLICIES[name](Observation((), seen.target, seen.drafts))
    assert (empty.batches, empty.plain) == ((), ())
    ids = [view.stream_id for view in seen.streams]
    blind = POLICIES[name](Observation(seen.streams, None, seen.drafts))
    assert (blind.batches, list(blind.plain), blind.prediction) == ((), ids, None)
    assert blind.policy == name


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
        if num_streams > MAX_BLOCKS:
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
