"""Modes of planning beside each other in random simulated meshes."""

from __future__ import annotations

from bench.sim.closed_loop import BELIEFS, COMPARED, Outcome, report, run_seed, steady_report


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
    for name in COMPARED:
        assert f"| {name} |" in text
    for name in BELIEFS:
        assert f"| {name} | 0.500 (0.500) | 2.000 (2.000) |" in text


def test_chosen_modes_run_beside_auto_and_plain_decoding() -> None:
    made = run_seed(2, 30, ("paper",))
    assert set(made.prices_s) == {"auto", "plain", "paper"}
    assert made.believing_s == {}
    assert "other beliefs" not in report([made])


def test_every_mode_runs_a_random_scenario() -> None:
    made = run_seed(2, 30)
    assert set(made.prices_s) == set(COMPARED)
    assert set(made.believing_s) == set(BELIEFS)
    assert all(0.0 < price_s < 1.0 for price_s in made.prices_s.values())
    assert made.to_best <= 1.0
    assert made.to_plain == made.prices_s["plain"] / made.prices_s["auto"]


def test_steady_meshes_have_their_prices_beside_the_predicted_ones() -> None:
    lines = steady_report(range(2, 5), 120).splitlines()
    assert lines[0].startswith("3 simulated steady meshes")
    counts = [int(line.split(":")[0].split()[-1]) for line in lines[1:]]
    assert sum(counts) == 3
    assert any(line.startswith("  with guesses") for line in lines)
