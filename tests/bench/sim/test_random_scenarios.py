"""Random meshes, what their nodes believe, and modes of planning beside each other in them."""

from dataclasses import replace

import pytest

from bench.sim.closed_loop import (
    BELIEFS,
    COMPARED,
    Outcome,
    random_scenario,
    report,
    run_seed,
    with_acceptance_off_by,
    with_draft_costs_off_by,
    with_learnt_acceptance,
)


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


def outcome(seed: int, auto_s: float, plain_s: float, best_s: float) -> Outcome:
    prices = dict.fromkeys(COMPARED, 9.0) | {"auto": auto_s, "plain": plain_s, "greedy": best_s}
    believing = dict.fromkeys(BELIEFS, (2 * auto_s, 4 * auto_s))
    return Outcome(seed, 3, 1, prices, believing, 0.4, 0.9, 10)


def test_the_report_compares_with_the_best_of_each_scenario() -> None:
    text = report([outcome(1, 1.0, 4.0, 1.0), outcome(2, 2.0, 1.0, 1.0)])
    # To plain decoding it is the geometric mean of 4 and a half.
    assert "| auto | 0.7500 (0.500) | 1.000 (1.000 to 1.000) |" in text
    assert "| plain | 0.6250 (0.250) | 1.414 (0.500 to 4.000) |" in text
    assert "more than 3 % slower than plain decoding in 1 scenarios" in text
    assert "below 0.5 in 2 scenarios" in text
    assert f"| {next(iter(BELIEFS))} | 0.500 (0.500) | 2.000 (2.000) |" in text


def test_every_mode_or_those_that_were_chosen_run_beside_auto_and_plain_decoding() -> None:
    made = run_seed(2, 30, ("paper",))
    assert set(made.prices_s) == {"auto", "plain", "paper"}
    assert made.believing_s == {}
    made = run_seed(2, 30)
    assert set(made.prices_s) == set(COMPARED)
    assert set(made.believing_s) == set(BELIEFS)
    assert all(0.0 < price_s < 1.0 for price_s in made.prices_s.values())
    assert made.to_best <= 1.0
    assert made.to_plain == made.prices_s["plain"] / made.prices_s["auto"]
