"""The planner's options and its closed-form candidates, against plain loops over them."""

from itertools import pairwise

import numpy as np
import pytest

from policies.cycle import block_sums
from policies.problem import problem_of
from policies.search import best_equal, block_bounds, options_of, runs_of
from tests.policies.instances import observation
from tests.policies.slow_cycle import SlowCycle


def test_the_other_options_take_every_guess_that_is_worth_more_than_those_left():
    """w (1/E(g-1) - 1/E(g)) of guesses taken is at least that of guesses let be."""
    several = 0
    for seed in range(60):
        seen = observation(seed, 2 + seed % 8)
        slow, problem = SlowCycle(seen), problem_of(seen)
        thresholds = options_of(problem)[min(8, problem.max_gamma) + 1 :]
        several += len(np.unique(thresholds, axis=0)) > 3
        for gammas in thresholds:
            taken, left = [np.inf], [0.0]
            for stream_id, gamma in zip(problem.stream_ids, gammas.tolist(), strict=True):
                view = slow.streams[stream_id]
                least, most = slow.bounds_of(view)
                for g in range(least + 1, most + 1):
                    worth = 1 / slow.earned(stream_id, g - 1) - 1 / slow.earned(stream_id, g)
                    (taken if g <= gamma else left).append(view.weight * worth)
            assert min(taken) >= max(left) * (1 - 1e-9) - 1e-15
    assert several > 20


def candidates(n):
    """Cuts that leave a first part plain and split the rest into equal batches."""
    for head in range(n):
        left = n - head
        for num in {*range(1, min(4, left) + 1), left}:
            yield head, [head + (m * left) // num for m in range(num + 1)]


@pytest.mark.slow
def test_the_best_of_the_equal_batches_is_found():
    heads = 0
    for seed in range(60):
        seen = observation(seed, 2 + seed % 5)
        problem, slow = problem_of(seen), SlowCycle(seen)
        options, bounds = options_of(problem), block_bounds(problem)
        runs = runs_of(problem, block_sums(problem, options, bounds))
        found, seed_point = best_equal(problem, options, bounds, runs)
        ids = problem.stream_ids
        by_option = [np.inf] * len(options)
        for head, cut in candidates(problem.num_streams):
            # A head in which clients ask for guesses is no plain head.
            if problem.least[:head].any():
                continue
            for o, gammas in enumerate(options.tolist()):
                batches = [[(ids[k], 0) for k in range(head)]] if head else []
                batches += [
                    [(ids[k], gammas[k]) for k in range(first, end)] for first, end in pairwise(cut)
                ]
                by_option[o] = min(by_option[o], slow.price(batches).price_s)
        assert found.price_s == pytest.approx(min(by_option), rel=1e-9)
        cut = pairwise(found.plan.bounds)
        plan = [
            [(ids[k], int(found.plan.gammas[k])) for k in range(first, end)] for first, end in cut
        ]
        price = slow.price(plan)
        assert price.price_s == pytest.approx(found.price_s, rel=1e-9)
        assert seed_point.num_plain == np.count_nonzero(found.plan.gammas == 0)
        assert seed_point.cycle_s == pytest.approx(price.cycle_s, rel=1e-6)
        heads += 0 < seed_point.num_plain < problem.num_streams
    assert heads > 5
