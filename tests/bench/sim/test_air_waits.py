"""Laps on a narrow cell, simulated, beside what plans predict: messages wait for one another."""

import pytest

from bench.sim.random_scenarios import node_costs
from bench.sim.world import Scenario, SimClient, SimDraftNode, World
from policies.baselines import equal_bounds, policy_of, uniform_gammas
from policies.cycle import CyclePlan
from policies.plan import Link

RATES = (0.25, 0.5, 1.0, 1.0)
FRAME_S = 0.5e-3


def cell(rate_bps: float, pass_s: float) -> Scenario:
    """Four draft nodes of unequal rates on one medium, a target that is flat up to 32 tokens."""
    nodes = tuple(
        SimDraftNode(costs=node_costs(5e-3, 64, 0.01), link=Link(rate_bps * r, 2e-3, "c", FRAME_S))
        for r in RATES
    )
    client = SimClient(
        alphas=(0.8,),
        num_prompt_tokens=4,
        max_tokens=(100_000, 100_000),
        think_s=0.0,
        starts_at=0.0,
        believed=(0.8,),
    )
    return Scenario(
        seed=1,
        target=node_costs(pass_s, 32, 0.02),
        drafts=nodes,
        clients=(client,) * 16,
        duration_s=20.0,
        noise=0.01,
    )


def laps_to_predicted(
    rate_bps: float, num_batches: int, gamma: int, pass_s: float = 0.04
) -> tuple[float, str]:
    """Mean lap of the later half over the predicted one, and what bounds it."""

    def scheme(problem):
        bounds = equal_bounds(problem.num_streams, num_batches)
        return CyclePlan(bounds, uniform_gammas(problem, gamma))

    world = World(cell(rate_bps, pass_s), policy_of("fixed", scheme))
    laps: list[float] = []
    watch = world._scheduler._watch
    told = watch.lap_done

    def lap_done(current, now):
        laps.append(now - current.started)
        told(current, now)

    watch.lap_done = lap_done  # type: ignore[method-assign]
    world.run()
    later, made = laps[len(laps) // 2 :], world.plan.prediction
    assert made is not None
    assert len(later) > 30
    return sum(later) / len(later) / made.cycle_s, made.bound


@pytest.mark.parametrize("gamma", [2, 4])
@pytest.mark.parametrize("num_batches", [1, 2])
@pytest.mark.parametrize("rate_bps", [200e3, 400e3, 1000e3])
def test_laps_on_a_narrow_cell_are_as_long_as_predicted(
    rate_bps: float, num_batches: int, gamma: int
) -> None:
    ratio, _ = laps_to_predicted(rate_bps, num_batches, gamma)
    assert ratio == pytest.approx(1.0, abs=0.08)


def test_many_batches_on_a_cell_that_is_nearly_full_are_as_slow_as_predicted() -> None:
    ratio, bound = laps_to_predicted(200e3, 3, 4, pass_s=0.02)
    assert bound != "target"
    assert ratio == pytest.approx(1.0, abs=0.08)
