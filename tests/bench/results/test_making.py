"""Rows of suites as cells of a result."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bench import cost, planner
from bench.live.answers import Together
from bench.live.cells import edge_cells, machine_cells, scale_cells
from bench.live.edge_hub import Figures
from bench.live.edge_setting import Setting
from bench.live.machine import Cell as MachineRow
from bench.live.pairs import Ratio
from bench.live.scale import Carried
from bench.results.making import BARE, airdraft_system, bare_system, result_of
from bench.results.options import keep, listed, out_option
from bench.results.report import markdown, section
from bench.results.schema import Cell, Results, Value, from_json
from bench.sim.closed_loop import COMPARED, Outcome
from bench.sim.closed_loop import cells as sim_cells


def cell(suite: str, place: str = "here") -> Cell:
    ratio = Value(metric="tokens/s", unit="x", value=2.0, low=1.5, high=2.5)
    return Cell(suite=suite, place=place, system="ours", reference="theirs", ratios=(ratio,))


def test_a_page_that_shows_several_suites_says_which_is_which() -> None:
    made = result_of([cell("a"), cell("b")], systems=[airdraft_system("1 thread"), bare_system()])
    assert [system.name for system in made.systems] == ["airdraft", BARE]
    text = section(made)
    assert "**a**" in text
    assert "**b**" in text


def test_a_result_is_kept_where_it_is_wanted(tmp_path: Path) -> None:
    made = result_of([cell("a")])
    keep(made, None)
    keep(made, tmp_path / "result.json")
    assert from_json((tmp_path / "result.json").read_text()) == made
    with pytest.raises(click.ClickException, match="Is a directory"):
        keep(made, tmp_path)


def test_a_folder_that_is_missing_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    @click.command()
    @out_option
    def measure(out: Path | None) -> None:
        click.echo(f"measured for {out}")

    wrong = CliRunner().invoke(measure, ["--out", str(tmp_path / "none" / "result.json")])
    assert wrong.exit_code == 2
    assert "is not an existing folder" in wrong.output
    assert "measured" not in wrong.output
    assert CliRunner().invoke(measure, ["--out", str(tmp_path / "result.json")]).exit_code == 0
    assert CliRunner().invoke(measure, []).output == "measured for None\n"


def test_cost_has_both_sides_and_the_ratio_of_its_pairs() -> None:
    rows = [cost.Row(1, ((100.0, 90.0), (50.0, 55.0), (80.0, 80.0)))]
    bare, mesh, pair = cost.cells(rows)
    assert (bare.system, mesh.system, pair.reference) == (BARE, "airdraft, plain", BARE)
    assert bare.place == mesh.place == pair.place == "smollm2-135m, 1 stream"
    assert (bare.values[0].value, mesh.values[0].value) == (80.0, 80.0)
    assert (bare.values[0].low, bare.values[0].high) == (50.0, 100.0)
    ratio = pair.ratios[0]
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.low < ratio.value == 1.0 < ratio.high
    assert cost.table(rows).splitlines()[-1] == "| 1 | 80.0 | 80.0 | 1.000 (0.900 to 1.100) |"


def test_the_planner_has_milliseconds_and_what_its_plans_are_worth() -> None:
    times = [planner.Times(8, 1, (0.001, 0.002, 0.004)), planner.Times(32, 4, (0.003,))]
    small, large, worth = planner.cells(times, [0.0, 0.02])
    assert (small.place, large.place) == ("8 streams, 1 draft node", "32 streams, 4 draft nodes")
    assert [(v.metric, v.unit, v.value) for v in small.values] == [
        ("plan, median", "ms", 2.0),
        ("plan, p99", "ms", 2.0),
        ("plan, worst", "ms", 4.0),
    ]
    assert worth.reference == "exact planner"
    assert worth.ratios[0].value == pytest.approx(1 / 1.01)
    assert "simulated" in worth.suite
    assert planner.table(times).splitlines()[2] == "| 8 | 1 | 2.00 | 2.00 | 4.00 |"
    assert planner.gap_line([0.0, 0.02]).endswith(
        "1.000% dearer on average, 0.00% at p99, 2.0% at most"
    )


def test_the_machine_has_mesh_and_bare_loop() -> None:
    figures = Together(num_rounds=1, num_plain_steps=3, num_guesses=10, num_accepted=5)
    row = MachineRow("Q8_0", "good", 4, 80.0, 100.0, Ratio(1.25, 1.2, 1.3), figures)
    bare, mesh, pair = machine_cells([row])
    assert bare.place == "Q8_0, draft good, 4 streams"
    assert [v.value for v in mesh.values] == [100.0, 0.25, 0.5]
    assert (pair.system, pair.reference) == ("airdraft", BARE)
    assert (pair.ratios[0].value, pair.ratios[0].low, pair.ratios[0].high) == (1.25, 1.2, 1.3)


def test_the_edge_is_said_to_be_emulated_and_has_auto_beside_each_other_mode() -> None:
    def made(rate: float, num_wrong: int = 0) -> Figures:
        return Figures(tokens_per_s=rate, num_texts=5, num_wrong=num_wrong, num_guesses=4)

    setting = Setting(rate_bps=2e6, alpha=0.9)
    by_policy = {"plain": made(50.0), "auto": made(80.0, 1), "greedy": made(100.0)}
    cells = list(edge_cells({setting: by_policy}))
    assert {c.suite for c in cells} == {"edge (emulated)"}
    assert {c.place for c in cells} == {"cell of 2000 kbit/s, alpha 0.9, 16 streams"}
    own = [c for c in cells if not c.reference]
    assert [(c.system, c.note) for c in own] == [
        ("plain", ""),
        ("auto", "1 of 5 texts wrong"),
        ("greedy", ""),
    ]
    pairs = {c.reference: c.ratios[0] for c in cells if c.reference}
    assert {name: ratio.value for name, ratio in pairs.items()} == {"plain": 1.6, "greedy": 0.8}
    # A single run of each: nothing to make an interval of.
    assert all(ratio.low is None for ratio in pairs.values())
    only = list(edge_cells({setting: {"plain": made(50.0)}}))
    assert [c.reference for c in only] == [""]


def test_scale_says_what_its_nodes_do() -> None:
    row = Carried(16, 100.0, 400.0, (0.001, 0.002, 0.003), (0.001,) * 3, 0.5, 2)
    (made,) = scale_cells([row], "32 a target")
    assert "emulated" in made.suite
    assert made.place == "16 streams, 32 a target"
    assert made.note == "2 wrong texts"
    assert {v.metric: v.value for v in made.values}["Ping p99"] == 0.002


def test_simulated_meshes_are_pairs_of_modes() -> None:
    prices = dict.fromkeys(COMPARED, 0.1) | {"plain": 0.2}
    outcomes = [Outcome(seed, 4, 1, prices, {}, 1.0, 1.0, 0) for seed in range(3)]
    cells = list(sim_cells(outcomes))
    assert len(cells) == len(COMPARED) - 1
    by_reference = {c.reference: c.ratios[0].value for c in cells}
    assert by_reference["plain"] == pytest.approx(2.0)
    assert by_reference["greedy"] == pytest.approx(1.0)
    assert cells[0].note == "3 scenarios"
    assert list(sim_cells([])) == []


def report_of(*cells: Cell) -> str:
    made: Results = result_of(cells)
    return markdown(made)


def test_a_report_has_the_metrics_that_a_suite_has() -> None:
    values = (
        Value(metric="plan, median", unit="ms", value=1.234),
        Value(metric="time", unit="s", value=0.0125),
        Value(metric="first token p99", unit="s", value=1.0),
    )
    text = report_of(Cell(suite="a", place="here", system="ours", values=values))
    assert "| where | system | plan, median | time | |" in text
    assert "| here | ours | 1.23 ms | 12 ms |  |" in text


def test_a_report_says_95_percent_only_where_there_are_intervals_and_keeps_notes() -> None:
    ratio = Value(metric="tokens/s", unit="x", value=2.0)
    pair = dataclasses.replace(cell("a"), ratios=(ratio,), note="once")
    text = report_of(pair)
    assert "| where | system | beside | tokens/s | |" in text
    assert "| here | ours | theirs | 2.00 | once |" in text
    assert "| where | system | beside | tokens/s (95 %) |\n" in report_of(cell("a"))


@pytest.mark.parametrize(
    ("text", "says"),
    [("1,x", "'1,x' is not a list of numbers"), ("1,3,4", "unknown: 3, 4; use 1, 2")],
)
def test_a_list_that_cannot_be_is_refused_with_the_reason(text: str, says: str) -> None:
    values = listed(int, lambda: (1, 2))
    with pytest.raises(click.BadParameter, match=says):
        values(text)
    assert values("1,2,") == [1, 2]
