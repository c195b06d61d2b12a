"""Drafting ahead in simulated meshes: a far draft whose guesses are good."""

from __future__ import annotations

from dataclasses import replace

from bench.sim.world import Scenario, SimClient, SimDraftNode, World
from policies.joint import joint_plan
from policies.latency import CostTable, NodeCosts
from policies.plan import Link, Observation, Plan


def costs(seconds: float) -> NodeCosts:
    table = CostTable((1, 64), (seconds, seconds * 1.5))
    return NodeCosts(table, table)


def never_ahead(observation: Observation) -> Plan:
    return joint_plan(replace(observation, ahead_overrun=10.0))


def test_what_is_drafted_ahead_makes_rounds_shorter_as_predicted() -> None:
    alphas = (0.92,) * 16
    client = SimClient(
        alphas=alphas,
        num_prompt_tokens=20,
        max_tokens=(300, 300),
        think_s=0.1,
        starts_at=0.0,
        believed=alphas,
    )
    scenario = Scenario(
        target=costs(0.04),
        drafts=(SimDraftNode(costs=costs(0.008), link=Link(rtt_s=0.03)),),
        clients=(client,),
        duration_s=120.0,
        warm_up_s=2.0,
        noise=0.0,
        seed=3,
    )
    world = World(scenario, joint_plan)
    with_ahead = world.run().price_s
    without = World(scenario, never_ahead).run().price_s
    made = world.plan.prediction
    assert made is not None
    assert made.ahead_gain > 0.05
    gain = 1.0 - with_ahead / without
    assert abs(gain - made.ahead_gain) < 0.04
