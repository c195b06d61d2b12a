"""The live planner's plans: priced as their definition says, close to the exact ones."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from random import Random

import numpy as np
import pytest

from airdraft.policies.cycle import (
    CyclePlan,
    block_sums,
    evaluate,
    price_of_totals,
    stages_of,
    totals_of,
    verify_times,
)
from airdraft.policies.joint import best_plan
from airdraft.policies.latency import CostTable, NodeCosts
from airdraft.policies.plan import MAX_AUTO_GAMMA, DraftView, Link, Observation, StreamView
from airdraft.policies.problem import CycleProblem, Ints, problem_of
from airdraft.policies.search import best_equal, block_bounds, options_of, runs_of
from tests.policies.instances import cut_of, observation
from tests.policies.slow_cycle import SlowCycle


def flat(first_s, last_s=None):
    """Costs of up to 100 tokens a pass."""
    costs = CostTable((1, 100), (first_s, last_s or first_s))
    return NodeCosts(costs, costs)


def least_price_s(problem: CycleProblem) -> float:
    """Returns the least price of all consecutive cuts, with any of the planner's options for each
    batch. Takes a second for five streams."""
    options = options_of(problem)
    n = problem.num_streams
    return min(
        _least_of_cut(problem, options, (0, *(k + 1 for k in range(n - 1) if cuts[k]), n))
        for cuts in product((False, True), repeat=n - 1)
    )


def _least_of_cut(problem: CycleProblem, options: Ints, bounds: tuple[int, ...]) -> float:
    sums = block_sums(problem, options, range(problem.num_streams + 1))
    # Options that are alike in a batch are one choice.
    choices = [
        np.unique(options[:, first:end], axis=0, return_index=True)[1]
        for first, end in pairwise(bounds)
    ]
    chosen = np.array(list(product(*choices)))
    first, end = np.array(bounds[:-1]), np.array(bounds[1:])
    stages = stages_of(
        problem,
        sums.counts[:, :, end, chosen] - sums.counts[:, :, first, chosen],
        sums.guesses[:, end, chosen] - sums.guesses[:, first, chosen],
        sums.weight_per_token[end, chosen] - sums.weight_per_token[first, chosen],
    )
    num_plain = (sums.num_plain[end, chosen] - sums.num_plain[first, chosen]).sum(axis=1)
    plain_weight = sums.plain_weight[end, chosen] - sums.plain_weight[first, chosen]
    times = verify_times(problem, stages, num_plain[:, None])
    totals = totals_of(problem, stages, times, num_plain, plain_weight.sum(axis=1))
    return float(price_of_totals(totals)[0].min())


@pytest.mark.parametrize("target_on_air", [False, True])
@pytest.mark.parametrize("num_streams", [1, 3, 8, 20, 70])
def test_a_plan_found_costs_what_it_says_and_keeps_every_bound(num_streams, target_on_air):
    for seed in range(25):
        seen = observation(seed, num_streams, target_on_air=target_on_air)
        problem = problem_of(seen)
        found = best_plan(problem)
        bounds, gammas = found.plan.bounds, found.plan.gammas
        assert (bounds[0], bounds[-1]) == (0, num_streams)
        assert list(bounds) == sorted(set(bounds))
        assert np.all(problem.least <= gammas)
        assert np.all(gammas <= problem.most)
        slow = SlowCycle(seen).price(cut_of(problem, found.plan))
        assert found.price_s == pytest.approx(slow.price_s, rel=1e-9), seed


def test_plain_decoding_is_never_cheaper_and_the_mix_never_dearer_than_equal_batches():
    better = 0
    for seed in range(80):
        problem = problem_of(observation(seed, 2 + seed % 20))
        plain = CyclePlan((0, problem.num_streams), problem.least)
        found = best_plan(problem)
        assert found.price_s <= evaluate(problem, plain).price_s * (1 + 1e-12)
        options, bounds = options_of(problem), block_bounds(problem)
        runs = runs_of(problem, block_sums(problem, options, bounds))
        equal, _ = best_equal(problem, options, bounds, runs)
        assert found.price_s <= equal.price_s
        better += found.price_s < equal.price_s * (1 - 1e-6)
    assert better > 1


def test_batches_of_unequal_size_and_gamma_are_found():
    """One sure stream far away, four near ones: the far one goes alone, with more guesses."""
    far = DraftView("far", flat(1e-3), Link(rtt_s=0.5))
    near = DraftView("near", flat(1e-3), Link(rtt_s=0.01))
    views = [StreamView(k, 0.5, 500, draft="near") for k in range(4)]
    views.append(StreamView(9, 0.98, 500, draft="far"))
    problem = problem_of(Observation(tuple(views), flat(0.1, 0.4), (far, near)))
    found = best_plan(problem)
    assert found.price_s == pytest.approx(least_price_s(problem), rel=0.005)
    assert found.plan.bounds[-2] == 4
    assert found.plan.gammas[4] == 8
    assert max(found.plan.gammas[:4]) < 8


def test_long_rounds_where_guesses_are_good_and_cost_nothing():
    views = tuple(StreamView(k, 0.97, 500, draft="a") for k in range(2))
    draft = DraftView("a", flat(1e-6))
    found = best_plan(problem_of(Observation(views, flat(0.1, 0.3), (draft,))))
    assert found.plan.gammas.tolist() == [MAX_AUTO_GAMMA] * 2


def gaps(seeds, sizes, weighted):
    """How much dearer than the cheapest plan the live one is, as a fraction, for each instance."""
    out = []
    for seed in seeds:
        seen = observation(seed, Random(seed).choice(sizes))
        if not weighted:
            views = tuple(replace(view, weight=1.0) for view in seen.streams)
            seen = replace(seen, streams=views)
        problem = problem_of(seen)
        out.append(best_plan(problem).price_s / least_price_s(problem) - 1.0)
    return np.array(out)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_the_live_plan_is_close_to_the_cheapest_one(part):
    """Of streams of equal weight, as the coordinator's are."""
    found = gaps(range(80 * part, 80 * (part + 1)), (2, 3, 4, 5), weighted=False)
    assert found.min() >= -1e-9
    assert found.mean() <= 0.005
    assert found.max() <= 0.15


@pytest.mark.slow
def test_a_plan_for_streams_of_unequal_weight_is_not_far_off():
    found = gaps(range(100), (2, 3, 4, 5), weighted=True)
    assert found.min() >= -1e-9
    assert found.mean() <= 0.01
