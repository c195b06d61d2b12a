"""The price of a cycle against its definition in plain Python."""

from random import Random

import pytest

from policies.cycle import evaluate
from policies.problem import problem_of
from tests.policies.instances import cut_of, observation, random_plan
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
