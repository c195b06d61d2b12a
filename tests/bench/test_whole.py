"""Suites in one run: one result, one report, and a suite that fails stops no other."""

from __future__ import annotations

import json
import textwrap
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.results.schema import from_json
from bench.whole import command
from bench.whole.command import all_command
from bench.whole.run import run_suites
from bench.whole.suites import SUITES, Suite


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Make a suite of a few lines of Python; `out` is where its result belongs."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name: str, code: str) -> Suite:
        path = tmp_path / f"suite_{name}.py"
        path.write_text("import sys\nout = sys.argv[sys.argv.index('--out') + 1]\n" + code)
        return Suite((path.stem,))

    return make


def good(name: str) -> str:
    return textwrap.dedent(f"""
        from pathlib import Path
        from bench.results.making import result_of
        from bench.results.options import keep
        from bench.results.schema import Cell
        print("measuring {name}")
        keep(result_of([Cell(suite="{name}", place="x", system="y")]), Path(out))
    """)


def test_suites_that_fail_are_told_and_the_others_are_kept(tmp_path: Path, suite) -> None:
    suites = {
        "breaks": suite("breaks", "raise RuntimeError('no such device')"),
        "good": suite("good", good("good")),
        "silent": suite("silent", ""),
        "half": suite("half", good("half") + "\nprint('2 of 3 requests failed'); sys.exit(1)"),
    }
    lines: list[str] = []
    results, failures = run_suites(
        suites, tmp_path, is_quick=False, report=lines.append, limit_s=900.0
    )
    assert failures == [
        "breaks failed: ended with code 1: RuntimeError: no such device",
        "silent failed: left no result",
        "half failed: ended with code 1: 2 of 3 requests failed",
    ]
    assert [cell.suite for cell in results.cells] == ["good", "half"]
    assert results.skipped == tuple(failures)
    assert "measuring good" in lines
    assert any(line.startswith("== good: python -m") for line in lines)


def test_a_suite_that_takes_too_long_is_ended(tmp_path: Path, suite) -> None:
    quick = {str(number): suite(f"quick{number}", "") for number in range(4)}
    began_at = time.monotonic()
    run_suites(quick, tmp_path, is_quick=True, report=print)
    # Four processes in a row took as long: one has begun by then, however slow the machine is.
    limit_s = round(time.monotonic() - began_at, 2)
    late = {"late": suite("late", "import time; print('waits', flush=True); time.sleep(3600)")}
    lines: list[str] = []
    _, failures = run_suites(late, tmp_path, is_quick=True, report=lines.append, limit_s=limit_s)
    assert failures == [f"late failed: not done after {limit_s:g} s"]
    assert "waits" in lines


def test_the_command_ends_with_1_after_the_report_is_written(
    tmp_path: Path, suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    suites = {"good": suite("good", good("good")), "breaks": suite("breaks", "sys.exit(3)")}
    monkeypatch.setattr(command, "SUITES", suites)
    out = tmp_path / "made"
    done = CliRunner().invoke(all_command, ["--suites", "breaks,good", "--out", str(out)])
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        "breaks failed: ended with code 3: it said nothing",
    ]
    assert [cell.suite for cell in from_json((out / "result.json").read_text()).cells] == ["good"]
    assert "breaks failed" in (out / "report.md").read_text()
    # A result of an earlier run is none of this one.
    suites["good"] = suite("good", "")
    done = CliRunner().invoke(all_command, ["--suites", "good", "--out", str(out)])
    assert "good failed: left no result" in done.stderr


def test_a_suite_that_is_not_there_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(all_command, ["--suites", "engine,motor", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "motor: of engine, planner" in done.stderr
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(all_command, ["--out", str(tmp_path / "file" / "x")])
    assert done.exit_code == 1
    assert "Not a directory" in done.stderr


def test_every_suite_has_a_quick_form() -> None:
    assert SUITES["cost"].arguments(is_quick=True) == ["bench", "cost", "--quick"]
    assert SUITES["cost"].arguments(is_quick=False) == ["bench", "cost"]
    assert SUITES["peers"].arguments(is_quick=True) == ["bench.whole.few_peers"]
    assert SUITES["peers"].arguments(is_quick=False) == ["bench", "peers"]


@pytest.mark.model
@pytest.mark.timeout(1800)
def test_a_quick_run_of_real_suites(tmp_path: Path) -> None:
    arguments = ["--quick", "--suites", "engine,planner,cost", "--out", str(tmp_path)]
    done = CliRunner().invoke(all_command, arguments)
    assert done.exit_code == 0, done.output
    results = from_json((tmp_path / "result.json").read_text())
    assert results.is_quick
    assert results.skipped == ()
    assert {cell.suite for cell in results.cells} == {
        "engine",
        "planner (simulated meshes)",
        "cost",
    }
    ratios = [v for cell in results.cells for v in cell.ratios]
    assert len(ratios) >= 4
    assert all(value.value > 0 for value in ratios)
    report = (tmp_path / "report.md").read_text()
    assert "## engine" in report
    assert ("![engine](plots/engine-rates.png)" in report) != ("Plots were left out" in report)
    assert json.loads((tmp_path / "suites" / "cost.json").read_text())["is_quick"]
