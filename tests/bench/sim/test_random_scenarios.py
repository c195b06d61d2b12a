"""Random meshes, and what is changed of what their nodes believe."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.sim.closed_loop import (
    random_scenario,
    steady,
    with_acceptance_off_by,
    with_draft_costs_off_by,
    with_learnt_acceptance,
    with_uneven_tokens,
)
from bench.sim.world import World


def test_random_scenarios_are_what_they_say() -> None:
    scenarios = [random_scenario(seed) for seed in range(300)]
    assert random_scenario(5) == scenarios[5]
    counts = {len(scenario.clients) for scenario in scenarios}
    assert counts <= set(range(1, 33))
    assert {1, 32} < counts
    assert {len(scenario.drafts) for scenario in scenarios} == {1, 2, 3, 4}
    assert any(node.away is not None for s in scenarios for node in s.drafts)
    for scenario in scenarios:
        for node in scenario.drafts:
            assert node.away is None or 0 < node.away[0] < node.away[1] < scenario.duration_s
        alphas = [alpha for client in scenario.clients for alpha in client.alphas]
        assert 0.05 <= min(alphas) <= max(alphas) <= 0.95
        assert scenario.target.decode.at(64) >= scenario.target.decode.at(1)


def test_wrong_beliefs_change_what_is_believed_and_nothing_else() -> None:
    scenario = random_scenario(11)
    off = with_acceptance_off_by(scenario, 0.2)
    unlike = 0
    for client, true in zip(off.clients, scenario.clients, strict=True):
        assert client.believed is not None
        errors = [a - b for a, b in zip(client.believed, true.alphas, strict=True)]
        assert max(map(abs, errors)) <= 0.2 + 1e-9
        assert replace(client, believed=true.believed) == true
        unlike += client.believed != true.believed
    assert unlike == len(off.clients)
    half = with_draft_costs_off_by(scenario, 0.5)
    for node, original in zip(half.drafts, scenario.drafts, strict=True):
        assert node.believed is not None
        assert node.believed.decode.at(3) == pytest.approx(original.costs.decode.at(3) / 2)
        assert replace(node, believed=None) == original
    assert all(client.believed is None for client in with_learnt_acceptance(scenario).clients)


def test_what_is_believed_of_acceptance_makes_a_difference() -> None:
    scenario = random_scenario(3, 60)
    runs = [scenario, with_acceptance_off_by(scenario, 0.2), with_learnt_acceptance(scenario)]
    results = [World(each).run() for each in (*runs, with_uneven_tokens(scenario))]
    assert min(result.num_accepted for result in results) > 0
    assert len({result.price_s for result in results}) == len(results)


def test_nobody_comes_or_goes_in_a_steady_mesh() -> None:
    scenario = steady(next(s for s in map(random_scenario, range(99)) if s.drafts[0].away))
    assert all(node.away is None for node in scenario.drafts)
    result = World(replace(scenario, duration_s=scenario.duration_s / 20)).run()
    assert result.num_finished == 0
    assert result.num_events > 0
