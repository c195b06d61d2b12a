from __future__ import annotations

import pytest

from nodes.scheduler import SchedulerState
from nodes.scheduler.stream import Stream
from policies.baselines import POLICIES
from policies.joint import joint_plan
from policies.latency import CostTable, NodeCosts
from policies.plan import Observation, Plan, Policy
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.pure_mesh import DRAFT_COSTS
from tests.nodes.scheduler.script import LONG, ONE, TWO, FixedPolicy

# 10 ms for one token, 2 more for each other; 100 us more for each cell of its own; 32 tokens of a
# prompt alone take 40 ms.
TARGET = NodeCosts(CostTable((1, 33), (0.010, 0.074)), CostTable((32,), (0.040,)))
LONG_TEXTS = NodeCosts(CostTable((1, 33), (0.010, 0.074), 0.0, 1e-4), TARGET.prefill)


def make(policy: Policy = joint_plan, costs: NodeCosts = TARGET) -> SchedulerState:
    return SchedulerState(policy, costs)


def newcomer(number: int = 9, length: int = len(PROMPT), gamma: int | None = None) -> Stream:
    prompt = (5,) * length
    return Stream(make_spec(number, prompt, max_tokens=LONG), list(prompt), gamma)


def test_plain_streams_get_a_token_a_pass_of_all_of_them() -> None:
    scheduler = make()
    assert scheduler.forecast.token_s_of_newcomers([newcomer()], 0.0) == pytest.approx(0.010)
    for number in (1, 2, 3):
        scheduler.admit(make_spec(number, max_tokens=LONG), None)
    # Though none of the three has been read yet.
    assert scheduler.forecast.token_s([ONE, TWO], 0.0) == pytest.approx(0.014)
    two = [newcomer(8), newcomer(9)]
    assert scheduler.forecast.token_s_of_newcomers(two, 0.0) == pytest.approx(0.018)


def test_a_policy_that_predicts_nothing_is_taken_as_plain() -> None:
    scheduler = make(FixedPolicy())
    scheduler.admit(make_spec(ONE), None)
    assert scheduler.forecast.token_s([ONE], 0.0) == pytest.approx(0.010)


def test_what_passes_of_late_took_is_what_is_expected() -> None:
    scheduler = make()
    assert scheduler._target is not None
    for _ in range(60):
        scheduler._target.pass_seen(1, 0.030, 0, 0.0)
    assert scheduler.forecast.token_s_of_newcomers([newcomer()], 0.0) > 0.025


def test_long_texts_take_longer() -> None:
    scheduler = make(costs=LONG_TEXTS)
    scheduler.admit(make_spec(ONE, (5,) * 100, max_tokens=LONG), None)
    # A pass of one token, and the 100 cells that it attends to.
    assert scheduler.forecast.token_s([ONE], 0.0) == pytest.approx(0.010 + 100e-4)


def test_a_draft_node_makes_streams_that_may_guess_faster() -> None:
    scheduler = make()
    scheduler.draft_joined("a", DRAFT_COSTS)
    forecast = scheduler.forecast
    guessing, plain = newcomer(8), newcomer(9, gamma=0)
    assert forecast.token_s_of_newcomers([guessing], 0.0) < 0.008
    assert forecast.token_s_of_newcomers([plain], 0.0) == pytest.approx(0.010)
    # What is known of a stream counts.
    for _ in range(20):
        guessing.acceptance.observe(4, 0, 4)
    assert forecast.token_s_of_newcomers([guessing], 0.0) == pytest.approx(0.010)


def test_many_newcomers_need_few_plans() -> None:
    policy = Counted()
    scheduler = make(policy)
    scheduler.draft_joined("a", DRAFT_COSTS)
    forecast = scheduler.forecast
    ratios = []
    for number in range(1, 65):
        quick_s = forecast.token_s_of_newcomer(newcomer(), 0.0)
        ratios.append(quick_s / forecast.token_s_of_newcomers([newcomer()], 0.0))
        scheduler.admit(make_spec(number, max_tokens=LONG), None)
    assert 0.7 < min(ratios) <= max(ratios) < 1.4
    policy.num_plans = 0
    fresh = make(policy)
    for number in range(1, 65):
        fresh.forecast.token_s_of_newcomer(newcomer(), 0.0)
        fresh.admit(make_spec(number, max_tokens=LONG), None)
    assert policy.num_plans < 15
    fresh.forecast.token_s_of_newcomer(newcomer(), 0.5)
    planned = policy.num_plans
    fresh.forecast.token_s_of_newcomer(newcomer(), 2.0)
    assert policy.num_plans == planned + 1


class Counted:
    """The joint policy, and how often it was asked."""

    def __init__(self) -> None:
        self.num_plans = 0

    def __call__(self, observation: Observation) -> Plan:
        self.num_plans += 1
        return joint_plan(observation)


def test_looking_ahead_changes_nothing() -> None:
    scheduler = make(POLICIES["joint"])
    scheduler.draft_joined("a", DRAFT_COSTS)
    scheduler.admit(make_spec(ONE, max_tokens=LONG), None)
    scheduler.target_ready(ONE, 1, 0.0)
    plan, load = scheduler.plan_in_force, scheduler._drafts._load.totals
    stream = newcomer()
    scheduler.forecast.token_s_of_newcomers([stream], 0.0)
    scheduler.forecast.token_s([ONE], 0.0)
    assert scheduler.plan_in_force is plan
    assert (scheduler._drafts._load.totals, stream.draft) == (load, None)
    assert scheduler.num_streams == 1


def test_reading_takes_longer_beside_others() -> None:
    scheduler = make()
    assert scheduler.forecast.reading_s(320) == pytest.approx(10 * 0.040)
    scheduler.admit(make_spec(ONE), None)
    # Ten passes of a token and a piece of the prompt.
    assert scheduler.forecast.reading_s(320) == pytest.approx(10 * 0.074)


def test_without_costs_nothing_is_predicted() -> None:
    scheduler = SchedulerState(joint_plan, None)
    assert scheduler.forecast.token_s_of_newcomers([newcomer()], 0.0) == 0.0
    assert scheduler.forecast.token_s_of_newcomer(newcomer(), 0.0) == 0.0
    assert scheduler.forecast.reading_s(100) == 0.0
