"""Where drafting ahead pays, by its formula and against drawn rounds."""

from dataclasses import replace
from itertools import pairwise
from random import Random

import numpy as np
import pytest

from policies.ahead import ahead_gains_s, cycle_gain_s
from policies.cycle import CyclePlan, evaluate
from policies.joint import joint_plan
from policies.latency import CostTable, NodeCosts
from policies.plan import DraftView, Link, Observation, StreamView
from policies.problem import problem_of

STEP_S, PASS_S, RTT_S = 0.010, 0.040, 0.020


def costs(seconds: float) -> NodeCosts:
    """A pass takes the same for any number of tokens."""
    table = CostTable((1, 64), (seconds, seconds))
    return NodeCosts(table, table)


def lone(alpha: float, *, step_s: float = STEP_S, num: int = 1) -> Observation:
    views = tuple(StreamView(k, alpha, 500, draft="a") for k in range(num))
    node = DraftView("a", costs(step_s), Link(rtt_s=RTT_S))
    return Observation(views, costs(PASS_S), (node,))


def gain_of(seen: Observation, bounds: tuple[int, ...], gamma: int) -> tuple[np.ndarray, float]:
    problem = problem_of(seen)
    plan = CyclePlan(bounds, np.full(problem.num_streams, gamma))
    cost = evaluate(problem, plan)
    gains_s = ahead_gains_s(problem, plan, cost)
    return gains_s, cycle_gain_s(cost, gains_s)


def test_a_hit_saves_the_draft_as_far_as_there_was_time_for_it():
    gains_s, gain_s = gain_of(lone(0.9), (0, 1), 4)
    # Five steps ahead take 50 ms of the 60 ms until the next request.
    assert gains_s == pytest.approx([0.9**5 * 4 * STEP_S])
    assert gain_s == pytest.approx(gains_s[0])
    # At 7 guesses there is time for 60 of 80 ms, and after a miss half a step to wait for.
    gains_s, _ = gain_of(lone(0.95), (0, 1), 7)
    hit = 0.95**8
    assert gains_s == pytest.approx([hit * 60 / 80 * 7 * STEP_S - (1 - hit) * STEP_S / 2])


def drawn_lap_s(alpha: float, gamma: int, num_rounds: int) -> float:
    """Mean lap of a lone stream whose draft node goes ahead, drawn round by round."""
    random = Random(1)
    away_s = RTT_S + PASS_S
    total_s, ready = 0.0, 0
    for _ in range(num_rounds):
        total_s += (gamma - ready) * STEP_S + away_s
        is_hit = all(random.random() < alpha for _ in range(gamma + 1))
        ready = min(gamma, max(0, int(away_s / STEP_S) - 1)) if is_hit else 0
    return total_s / num_rounds


@pytest.mark.parametrize(("alpha", "gamma"), [(0.9, 4), (0.8, 3), (0.97, 5)])
def test_the_gain_is_that_of_drawn_rounds(alpha: float, gamma: int):
    gains_s, _ = gain_of(lone(alpha), (0, 1), gamma)
    lap_s = gamma * STEP_S + RTT_S + PASS_S
    assert lap_s - gains_s[0] == pytest.approx(drawn_lap_s(alpha, gamma, 40_000), rel=0.02)


def test_nothing_is_drafted_ahead_without_time_or_luck():
    # The node is the longest stage.
    assert gain_of(lone(0.9, step_s=0.030, num=2), (0, 1, 2), 4)[1] == 0.0
    # Bad guesses; many streams that must all be lucky.
    assert gain_of(lone(0.4), (0, 1), 4)[1] == 0.0
    assert gain_of(lone(0.9, num=8), (0, 8), 4)[1] == 0.0
    # Two batches that keep the target busy: no lap bounds the cycle.
    _, gain_s = gain_of(lone(0.95, step_s=0.001, num=4), (0, 1, 2, 3, 4), 2)
    assert gain_s == 0.0
    # Nobody guesses.
    assert gain_of(lone(0.9), (0, 1), 0)[1] == 0.0


def test_the_joint_plan_goes_ahead_until_it_is_known_to_cost_more():
    plan = joint_plan(lone(0.9))
    assert [batch.ahead for batch in plan.batches] == [True]
    assert plan.prediction is not None
    gain = plan.prediction.ahead_gain
    assert 0.03 <= gain < 0.5
    overruns = [1.0, 1.0 + 0.9 * gain, 1.0 + 1.1 * gain]
    ahead = [joint_plan(replace(lone(0.9), ahead_overrun=o)).batches[0].ahead for o in overruns]
    assert ahead == [True, True, False]
    assert all(a >= b for a, b in pairwise(ahead))
