"""Plans whose batches meet on the air, played through: against the definition, and by hand."""

from itertools import pairwise
from random import Random

import numpy as np
import pytest

from policies.cycle import CyclePlan, evaluate
from policies.latency import CostTable, NodeCosts
from policies.plan import DraftView, Link, Observation, StreamView
from policies.play import meets_on_air, messages_air_s, played_cost
from policies.problem import CycleProblem, problem_of
from tests.policies.instances import observation
from tests.policies.slow_cycle import SlowCycle
from tests.policies.test_cycle import batches_of, random_plan


@pytest.mark.slow
@pytest.mark.parametrize("target_on_air", [False, True])
@pytest.mark.parametrize("stopping", [False, True])
def test_played_plans_cost_what_their_definition_says(stopping: bool, target_on_air: bool) -> None:
    num_played = num_longer = 0
    for seed in range(300):
        random = Random(seed)
        num_streams = random.randint(2, 10)
        seen = observation(seed, num_streams, stopping=stopping, target_on_air=target_on_air)
        problem = problem_of(seen)
        plan = random_plan(random, problem)
        cost, closed = played_cost(problem, plan), evaluate(problem, plan)
        slow = SlowCycle(seen).price(batches_of(problem, plan), played=True)
        assert cost.price_s == pytest.approx(slow.price_s, rel=1e-9), seed
        assert cost.natural_s == pytest.approx(slow.natural_s, rel=1e-9)
        assert cost.lap_s.tolist() == closed.lap_s.tolist()
        if meets_on_air(closed):
            num_played += 1
            num_longer += cost.natural_s > 1.02 * closed.natural_s
        else:
            assert cost.natural_s == closed.natural_s
    assert num_played > 50
    assert num_longer > 2


def two_batches(rate_bps: float, pass_s: float = 0.04, draft_s: float = 0.025) -> CycleProblem:
    """Two streams on a draft node behind a narrow link; nothing depends on how many there are."""
    costs = NodeCosts(CostTable((1, 64), (pass_s, pass_s)), CostTable((1,), (1.0,)))
    drafts = NodeCosts(CostTable((1, 64), (draft_s, draft_s)), CostTable((1,), (1.0,)))
    view = DraftView("a", drafts, Link(rate_bps))
    streams = tuple(StreamView(number, 0.8, 100, draft="a") for number in (1, 2))
    return problem_of(Observation(streams, costs, (view,)))


ONE_EACH = CyclePlan((0, 1, 2), np.array([1, 1]))


def test_messages_that_fit_in_sums_may_still_be_in_each_others_way() -> None:
    """Request and answer of 20 ms around 25 ms of drafting, and passes of 40 ms: 105 ms a lap, of
    which the air works for 80. Wherever the other batch begins, one of its messages waits for one
    of the first's, or its pass does: no lap of 105 ms can be."""
    bits = float(messages_air_s(two_batches(1.0), ONE_EACH, 0)[0]) * 1.0
    problem = two_batches(bits / 0.04)
    assert messages_air_s(problem, ONE_EACH, 0)[0] == pytest.approx(0.04)
    closed, played = evaluate(problem, ONE_EACH), played_cost(problem, ONE_EACH)
    assert closed.lap_s.max() == pytest.approx(0.105)
    assert closed.natural_s < 0.112 < played.natural_s < 0.13
    assert played.price_s > closed.price_s


def test_what_the_target_is_busy_with_all_the_time_takes_as_long_as_that() -> None:
    problem = two_batches(1e7, pass_s=0.1)
    closed, played = evaluate(problem, ONE_EACH), played_cost(problem, ONE_EACH)
    assert played.natural_s == pytest.approx(closed.natural_s) == pytest.approx(0.2)


def test_one_batch_meets_nobody_and_shares_and_turns_by_whole_laps_are_not_played() -> None:
    problem = two_batches(20e3)
    together = CyclePlan((0, 2), np.array([1, 1]))
    assert not meets_on_air(evaluate(problem, together))
    assert meets_on_air(evaluate(problem, ONE_EACH))
    for handicap in ({"equal_shares": True}, {"overlap": False}):
        cost = played_cost(problem, ONE_EACH, **handicap)
        assert cost.natural_s == evaluate(problem, ONE_EACH, **handicap).natural_s


def test_air_of_messages_is_that_of_the_stages() -> None:
    for seed in range(50):
        problem = problem_of(observation(seed, 6))
        plan = random_plan(Random(seed), problem)
        cost = evaluate(problem, plan)
        for m, _ in enumerate(pairwise(plan.bounds)):
            air_s = messages_air_s(problem, plan, m)
            by_medium = np.bincount(problem.media, air_s, len(problem.medium_names))
            assert by_medium.tolist() == pytest.approx(cost.stages.air_s[:, m].tolist())
