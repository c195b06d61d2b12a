"""The paper's scenario file and command: what is wrong in one line, the same files every time."""

import csv
import dataclasses
import tomllib

import pytest
from click.testing import CliRunner

from bench.paper.command import paper_command
from bench.paper.delay import delay_curves
from bench.paper.plots import plot_delay, plot_payload, plot_sweep
from bench.paper.rules import ScenarioError
from bench.paper.scenario import PAPER, load
from bench.paper.sweeps import LATENCY, UPLOAD, Runner, sweeps_of
from tests.bench.paper_tasks import BASE

BAD = {
    "a number as text": ("rtt_s = 0.005", 'rtt_s = "5 ms"', ("link.rtt_s", "5 ms", "a number")),
    "out of range": ("fixed_gamma = 4", "fixed_gamma = 9", ("schemes.fixed_gamma", "9", "0 to 8")),
    "not whole": ("num = 100", "num = 10.5", ("tasks.num", "10.5", "whole number")),
    "a flag": ("rayleigh = true", "rayleigh = 1", ("cell.rayleigh", "1", "true or false")),
    "infinite": ("power_dbm = 23", "power_dbm = inf", ("cell.power_dbm", "inf", "from -100")),
    "unknown key": ("power_dbm =", "power_dmb =", ("cell.power_dmb", "23", "power_dbm?")),
    "unknown model": ('"llama-68m"', '"llama-67m"', ("models.draft", "llama-67m", "llama-68m")),
    "empty list": ("alphas = [0.6, 0.8, 0.9]", "alphas = []", ("delay.alphas", "[]", "a list")),
    "one bad item": ('metrics = ["mean",', 'metrics = ["p99",', ("run.metrics", "p99", "mean")),
    "no joint": ('"joint", ', "", ("schemes.names", "'joint-step'", "joint, joint-step")),
    "order": ("min_tokens = 4", "min_tokens = 2000", ("tasks.max_tokens", "1024", "2000")),
    "missing table": ("\n[link]", "\n[lnk]", ("lnk", "rtt_s", "link")),
    "missing key": ("seeds = 20", "# seeds", ("run.seeds", "missing", "at least 5")),
    "not TOML": ("\n[cell]", "\n[cell", ("not TOML", "line", "]")),
    # Found when the nodes are built.
    "no room": (
        "max_tokens = 1024",
        "max_tokens = 60_000",
        ("tasks.max_tokens", "60000", "up to half of that is accepted"),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_scenario_is_one_line_with_file_key_value_and_what_is_accepted(
    case, tmp_path
) -> None:
    old, new, parts = BAD[case]
    text = PAPER.read_text()
    assert text.count(old) >= 1
    path = tmp_path / "scenario.toml"
    path.write_text(text.replace(old, new, 1))
    out = tmp_path / "out"
    ran = CliRunner().invoke(paper_command, ["--scenario", str(path), "--out", str(out)])
    assert ran.exit_code == 2
    lines = ran.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"{path}: ")
    assert all(part in lines[0] for part in parts), lines[0]
    assert not out.exists()


def test_a_scenario_that_is_not_there(tmp_path) -> None:
    with pytest.raises(ScenarioError, match=r"nowhere\.toml: cannot be read"):
        load(tmp_path / "nowhere.toml")


def test_the_papers_scenario_asks_for_what_the_issue_does() -> None:
    assert BASE.run.seeds >= 20
    assert (min(BASE.sweeps.num_tasks), max(BASE.sweeps.num_tasks)) == (10, 100)
    given = tomllib.loads(PAPER.read_text())
    assert set(given["sweeps"]) == {field.name for field in dataclasses.fields(BASE.sweeps)}


@pytest.fixture
def short_scenario(tmp_path):
    """The last value of every sweep, both ends of two, three tasks, some schemes."""
    head, sweeps = PAPER.read_text().split("[sweeps]")
    lines = []
    for line in sweeps.splitlines():
        key, _, values = line.partition(" = [")
        ends = values.split("]")[0].split(",")
        if key in ("payload_bytes", "num_tasks"):
            line = f"{key} = [{ends[0]}, {ends[-1]}]"
        elif values and key != "alphas":
            line = f"{key} = [{ends[-1]}]"
        lines.append(line.replace("num_points = 81", "num_points = 5"))
    head = head.replace("num = 100", "num = 3").replace("seeds = 20", "seeds = 5")
    for name in ("single-stream", "alternating", "greedy", "no-overlap"):
        head = head.replace(f'"{name}",', "")
    path = tmp_path / "short.toml"
    text = head + "[sweeps]" + "\n".join(lines)
    path.write_text(text.replace("num_tasks = [10,  100]", "num_tasks = [2, 3]"))
    return path


def test_the_command_writes_the_same_files_twice(tmp_path, short_scenario, monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr("bench.paper.report.plot_all", lambda *given: drawn.append(given))
    outs = [tmp_path / name for name in ("one", "two")]
    for out in outs:
        ran = CliRunner().invoke(
            paper_command, ["--scenario", str(short_scenario), "--out", str(out), "--seeds", "5"]
        )
        assert ran.exit_code == 0, ran.output
        assert ran.stdout == f"{out / 'report.md'}\n"
    names = sorted(file.name for file in outs[0].iterdir())
    assert {"report.md", "reductions.csv", "delay.csv", "payload.csv"} <= set(names)
    for name in names:
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()
    report = (outs[0] / "report.md").read_text()
    for part in ("44.9 %", "21.4 %", "uniform-air", "Critical delay", "3 tasks", "5 seeds"):
        assert part in report
    with (outs[0] / "num_tasks.csv").open() as file:
        rows = list(csv.DictReader(file))
    ends = [row for row in rows if row["scope"] == LATENCY]
    assert len(ends) == 2 * 2 * len(load(short_scenario).schemes.names)
    assert all(float(row["reduction"]) >= 0 for row in ends)
    assert [given[0] for given in drawn] == outs


def test_figures_are_drawn(tmp_path, short_scenario) -> None:
    pytest.importorskip("matplotlib")
    scenario = load(short_scenario)
    runner, sweeps = Runner(), {sweep.name: sweep for sweep in sweeps_of(scenario)}
    for name in ("num_tasks", "target_device"):
        results = [runner.result(point) for point in sweeps[name].points]
        plot_sweep(tmp_path / f"{name}.png", sweeps[name], results)
    results = [runner.result(point) for point in sweeps["payload"].points]
    plot_payload(tmp_path / "payload.png", results, ((UPLOAD, "uniform-air", 0.4, "mean"),))
    plot_delay(tmp_path / "delay.png", delay_curves(scenario))
    for name in ("num_tasks", "target_device", "payload", "delay"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
