"""The live planner's plans are close to the exact ones."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from bench.exact import exact_plan
from policies.joint import best_plan
from policies.latency import CostTable, NodeCosts
from policies.plan import DraftView, Link, Observation, StreamView
from policies.problem import problem_of
from tests.policies.instances import observation


def flat(first_s, last_s=None):
    """Costs of up to 100 tokens a pass."""
    costs = CostTable((1, 100), (first_s, last_s or first_s))
    return NodeCosts(costs, costs)


def test_batches_of_unequal_size_and_gamma_are_found():
    """One sure stream far away, four near ones: the far one goes alone, with more guesses."""
    far = DraftView("far", flat(1e-3), Link(rtt_s=0.5))
    near = DraftView("near", flat(1e-3), Link(rtt_s=0.01))
    views = [StreamView(k, 0.5, 500, draft="near") for k in range(4)]
    views.append(StreamView(9, 0.98, 500, draft="far"))
    problem = problem_of(Observation(tuple(views), flat(0.1, 0.4), (far, near)))
    found = best_plan(problem)
    assert found.price_s == pytest.approx(exact_plan(problem).price_s, rel=0.005)
    assert found.plan.bounds[-2] == 4
    assert found.plan.gammas[4] == 8
    assert max(found.plan.gammas[:4]) < 8


def test_long_rounds_where_guesses_are_good_and_cost_nothing():
    views = tuple(StreamView(k, 0.97, 500, draft="a") for k in range(2))
    for max_gamma, wanted in ((8, 8), (16, 16)):
        draft = DraftView("a", flat(1e-6), max_gamma=max_gamma)
        found = best_plan(problem_of(Observation(views, flat(0.1, 0.3), (draft,))))
        assert found.plan.gammas.tolist() == [wanted, wanted]


def gaps(seeds, sizes, weighted):
    """How much dearer than the exact plan the live one is, as a fraction, for each instance."""
    out = []
    for seed in seeds:
        seen = observation(seed, Random(seed).choice(sizes))
        if not weighted:
            views = tuple(replace(view, weight=1.0) for view in seen.streams)
            seen = replace(seen, streams=views)
        problem = problem_of(seen)
        out.append(best_plan(problem).price_s / exact_plan(problem).price_s - 1.0)
    return np.array(out)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_the_live_plan_is_close_to_the_exact_one(part):
    """Of streams of equal weight, as the coordinator's are."""
    found = gaps(range(80 * part, 80 * (part + 1)), (2, 3, 4, 5, 6), weighted=False)
    assert found.min() >= -1e-9
    assert found.mean() <= 0.005
    assert found.max() <= 0.15


@pytest.mark.slow
def test_a_plan_for_streams_of_unequal_weight_is_not_far_off():
    found = gaps(range(100), (2, 3, 4, 5), weighted=True)
    assert found.min() >= -1e-9
    assert found.mean() <= 0.01
