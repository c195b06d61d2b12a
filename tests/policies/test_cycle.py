"""The price of a cycle against its definition in plain Python, and what may never raise it."""

from random import Random

import numpy as np
import pytest

from policies.cycle import CyclePlan, evaluate
from policies.latency import CostTable, NodeCosts
from policies.plan import DraftView, Link, Observation, StreamView
from policies.problem import problem_of
from tests.policies.instances import BETTER, better, cut_of, observation, random_plan
from tests.policies.slow_cycle import SlowCycle


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("equal_shares", [False, True])
@pytest.mark.parametrize("target_on_air", [False, True])
def test_a_plan_costs_what_its_definition_says(target_on_air, equal_shares, overlap):
    longer = 0
    for seed in range(600):
        random = Random(seed)
        num_streams = random.randint(1, 10)
        seen = observation(seed, num_streams, target_on_air=target_on_air)
        problem = problem_of(seen)
        plan = random_plan(random, problem)
        cost = evaluate(problem, plan, equal_shares=equal_shares, overlap=overlap)
        slow = SlowCycle(seen).price(
            cut_of(problem, plan), equal_shares=equal_shares, overlap=overlap
        )
        assert cost.price_s == pytest.approx(slow.price_s, rel=1e-9), seed
        assert cost.natural_s == pytest.approx(slow.natural_s, rel=1e-9)
        # Golden section finds the least value to rounding, its place to the root of that.
        assert cost.cycle_s == pytest.approx(slow.cycle_s, rel=1e-6)
        longer += cost.cycle_s > 1.01 * cost.natural_s > 0
        for m, batch in enumerate(slow.batches):
            draft_s = [batch[0].get(name, 0.0) for name in problem.node_names]
            assert cost.stages.draft_s[:, m] == pytest.approx(draft_s, rel=1e-9)
            air_s = sorted(seconds for seconds in cost.stages.air_s[:, m] if seconds)
            assert air_s == pytest.approx(sorted(filter(None, batch[1].values())))
            assert cost.stages.head_s[m] == pytest.approx(batch[2], rel=1e-9)
            assert cost.verify_s[m] == pytest.approx(batch[3], rel=1e-9)
            assert cost.round_s[m] == pytest.approx(batch[4], rel=1e-9)
            assert cost.stages.num_tokens[m] == pytest.approx(batch[5], rel=1e-9)
    assert longer > 20


def linear(first_s, each_s):
    costs = CostTable((1, 101), (first_s, first_s + 100 * each_s))
    return NodeCosts(costs, costs)


def test_a_cycle_by_hand():
    """Two batches on two nodes, one plain stream; every figure from the docstring's formulas."""
    seen = Observation(
        streams=(
            StreamView(1, 0.5, 99, draft="a"),
            StreamView(2, 0.6, 99, draft="b"),
            StreamView(3, 0.8, 99, draft="a"),
            StreamView(4, 0.9, 99),
        ),
        target=linear(0.100, 0.002),
        drafts=(
            DraftView("a", linear(0.010, 0.001), Link(1e5, 0.020, "cell", 0.001)),
            DraftView("b", linear(0.004, 0.0), Link(1e5, 0.050, "cell", 0.001)),
        ),
        token_bits=16,
    )
    cost = evaluate(problem_of(seen), CyclePlan((0, 2, 4), np.array([2, 1, 3, 0])))
    # Node a: catching up with two tokens, then one at a time; messages of 153 bytes, 10 an entry.
    draft_a, draft_b, draft_c = 0.011 + 0.010, 0.004, 0.011 + 2 * 0.010
    air_a = 0.002 + (2448 + 160 + 16 * 5) / 1e5
    air_b = 0.002 + (2448 + 160 + 16 * 3) / 1e5
    air_c = 0.002 + (2448 + 160 + 16 * 7) / 1e5
    verify = [0.100 + 0.002 * (5 + 1 - 1), 0.100 + 0.002 * (4 + 1 - 1)]
    # Half of each node's messages is in the way of the other's.
    shared = air_a + air_b
    head_a = 0.020 + max(shared, draft_a + (shared + air_a) / 2)
    head_b = 0.050 + max(shared, draft_b + (shared + air_b) / 2)
    rounds = [
        max(head_a, head_b) + verify[0] + 0.050,
        draft_c + 0.020 + air_c + verify[1] + 0.050,
    ]
    # Of a batch's own two bursts each may meet the other's.
    longest, others = max(rounds), (shared + air_c) / 2
    longest = (longest + others + ((longest - others) ** 2 + others**2) ** 0.5) / 2
    cycle_s = max(longest, sum(verify), draft_a + draft_c, air_a + air_b + air_c)
    worth = 1 / 1.75 + 1 / 1.6 + 1 / (1 + 0.8 + 0.64 + 0.512)
    plain = cycle_s / (2 + (cycle_s - sum(verify)) / 0.100)
    assert cost.stages.draft_s.ravel() == pytest.approx([draft_a, draft_c, draft_b, 0.0])
    assert cost.stages.air_s.tolist() == [pytest.approx([air_a + air_b, air_c])]
    assert cost.verify_s == pytest.approx(verify)
    assert cost.round_s == pytest.approx(rounds)
    assert cost.natural_s == pytest.approx(cycle_s)
    # Two passes with guesses take only 18 ms more than plain ones: nothing to wait for.
    assert cost.cycle_s == pytest.approx(cycle_s)
    assert cost.price_s == pytest.approx(cycle_s * worth + plain)


@pytest.mark.parametrize("change", BETTER)
def test_nothing_better_raises_the_price_of_any_plan(change):
    """With the plan held fixed: its streams, their order, their guesses."""
    lower = 0
    for seed in range(150):
        random = Random(f"{seed} {change}")
        seen = observation(seed, random.randint(1, 8))
        problem = problem_of(seen)
        improved = problem_of(better(random, seen, change))
        # Acceptance sorts streams: the same one is compared, wherever it stands.
        place = {stream_id: k for k, stream_id in enumerate(improved.stream_ids)}
        improved = improved.in_order(np.array([place[k] for k in problem.stream_ids]))
        plan = random_plan(random, problem)
        kind = {"equal_shares": random.random() < 0.3, "overlap": random.random() < 0.7}
        before = evaluate(problem, plan, **kind).price_s
        after = evaluate(improved, plan, **kind).price_s
        assert after <= before * (1 + 1e-12), seed
        lower += after < before * (1 - 1e-9)
    assert lower > 10
