"""The exact plan against a search over every cut and every batch's option, in plain Python."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from bench.exact import exact_plan
from policies.cycle import evaluate
from policies.joint import best_plan
from policies.latency import CostTable, NodeCosts
from policies.plan import DraftView, Link, Observation, StreamView
from policies.problem import problem_of
from policies.search import options_of
from tests.policies.instances import BETTER, better, observation, plain_price_s
from tests.policies.slow_cycle import SlowCycle

pytestmark = pytest.mark.slow

# Options by number of streams, so that the search stays in the low thousands of plans.
NUM_OPTIONS = {1: 17, 2: 17, 3: 9, 4: 5, 5: 4}


def some_options(random, problem):
    """Some of the live planner's options, or any gammas at all."""
    n = problem.num_streams
    options = options_of(problem)
    num = min(NUM_OPTIONS[n], len(options))
    if random.random() < 0.6:
        return options[sorted(random.sample(range(len(options)), num))]
    rows = [[random.choice((0, random.randint(1, 8))) for _ in range(n)] for _ in range(num)]
    return np.clip(rows, problem.least, problem.most)


def check_one(seed, seen):
    """Compare with the search; returns the problem and the plan found."""
    problem = problem_of(seen)
    options = some_options(Random(seed), problem)
    found = exact_plan(problem, options)
    least = SlowCycle(seen).cheapest(problem.stream_ids, options.tolist())
    assert found.price_s == pytest.approx(least, rel=1e-9), seed
    assert evaluate(problem, found.plan).price_s == pytest.approx(least, rel=1e-9), seed
    return problem, found.plan


def check(seeds):
    """Returns how often several batches guess, and how often some streams beside plain ones."""
    several = beside = 0
    for seed in seeds:
        n = 1 + seed % 5
        problem, plan = check_one(seed, observation(seed, n))
        several += np.count_nonzero(evaluate(problem, plan).verify_s) > 1
        beside += 0 < np.count_nonzero(plan.gammas) < n
    return several, beside


@pytest.mark.parametrize("part", range(5))
def test_the_exact_plan_is_what_a_search_over_everything_finds(part):
    several, beside = check(range(100 * part, 100 * (part + 1)))
    assert several > 5
    assert beside > 5


def test_the_exact_plan_with_drafts_that_may_stop():
    for seed in range(60):
        check_one(seed, observation(seed, 1 + seed % 5))


def test_the_exact_plan_with_a_target_on_the_air():
    for seed in range(100):
        check_one(seed, observation(seed, 1 + seed % 5, target_on_air=True))


# Found by search: a label dropped for one that is better but in this sum would be missed.
@pytest.mark.parametrize(
    ("seed", "num_streams", "max_drafts"),
    [
        pytest.param(4885, 4, 2, id="number of batches"),
        pytest.param(6778, 4, 1, id="number of batches"),
        pytest.param(916, 4, 4, id="weight of plain streams"),
        pytest.param(1300, 4, 4, id="weight of plain streams"),
        pytest.param(5902, 4, 1, id="first draft node"),
        pytest.param(2642, 5, 2, id="first draft node"),
        pytest.param(2668, 4, 2, id="second draft node"),
        pytest.param(6994, 4, 1, id="medium"),
        pytest.param(1125, 3, 4, id="medium"),
        pytest.param(262, 4, 4, id="longest round"),
    ],
)
def test_no_sum_may_be_left_out_of_dominance(seed, num_streams, max_drafts):
    check_one(seed, observation(seed, num_streams, max_drafts))


def test_streams_that_no_option_lets_guess():
    """There is then no plan with fewer plain streams."""
    seen = observation(0, 3)
    views = tuple(replace(view, draft=None, fixed_gamma=None) for view in seen.streams)
    for streams in (views, views[:1]):
        problem = problem_of(replace(seen, streams=streams))
        found = exact_plan(problem)
        assert found.price_s == pytest.approx(plain_price_s(problem))
        assert not found.plan.gammas.any()


def test_the_planner_options_are_the_default_and_its_plan_never_cheaper():
    for seed in range(30):
        problem = problem_of(observation(seed, 4))
        found = exact_plan(problem)
        assert found.price_s == exact_plan(problem, options_of(problem)).price_s
        assert found.price_s <= best_plan(problem).price_s * (1 + 1e-12)


def test_a_cheaper_live_plan_of_other_options_is_not_taken():
    """Only eight guesses or none are allowed here; four would be better."""
    costs = NodeCosts(CostTable((1, 64), (0.1, 1.0)), CostTable((1,), (0.1,)))
    quick = NodeCosts(CostTable((1,), (1e-6,)), CostTable((1,), (1e-6,)))
    views = tuple(StreamView(k, 0.7, 100, draft="a") for k in range(2))
    problem = problem_of(Observation(views, costs, (DraftView("a", quick, Link()),)))
    allowed = np.array([[0, 0], [8, 8]])
    found = exact_plan(problem, allowed)
    assert set(found.plan.gammas.tolist()) <= {0, 8}
    assert found.price_s > 1.01 * best_plan(problem).price_s


@pytest.mark.parametrize("change", BETTER)
def test_nothing_better_raises_the_price_of_the_exact_plan(change):
    """The streams' order and the options held fixed."""
    lower = 0
    for seed in range(60):
        random = Random(f"{seed} {change}")
        seen = observation(seed, random.randint(1, 5), max_drafts=3)
        problem = problem_of(seen)
        improved = problem_of(better(random, seen, change))
        place = {stream_id: k for k, stream_id in enumerate(improved.stream_ids)}
        improved = improved.in_order(np.array([place[k] for k in problem.stream_ids]))
        options = options_of(problem)
        before, after = exact_plan(problem, options), exact_plan(improved, options)
        assert after.price_s <= before.price_s * (1 + 1e-12), seed
        lower += after.price_s < before.price_s * (1 - 1e-9)
    assert lower > 3
