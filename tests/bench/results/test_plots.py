"""Pictures of results: files that are there, are PNGs, and show something."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.results import plots
from bench.results.command import report_command
from bench.results.making import result_of
from bench.results.schema import Cell, Results, Value, to_json

HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None
drawn = pytest.mark.skipif(not HAS_MATPLOTLIB, reason="the extra `bench` is not installed")


def cells(suite: str, factor: float = 1.0) -> list[Cell]:
    made = []
    for place in (
        "Q8_0, chat, 1 stream",
        "a place with a name that does not fit in one line of it",
    ):
        for k, system in enumerate(("ours", "theirs")):
            rate = 10.0 * factor**k
            value = Value(metric="tokens/s", unit="1/s", value=rate, low=0.9 * rate, high=rate)
            made.append(Cell(suite=suite, place=place, system=system, values=(value,)))
        ratio = Value(metric="tokens/s", unit="x", value=1 / factor, low=0.5 / factor, high=2.0)
        pair = Cell(suite=suite, place=place, system="ours", reference="theirs", ratios=(ratio,))
        made.append(pair)
    return made


def results(*suites: str, factor: float = 1.0) -> Results:
    return result_of([cell for suite in suites for cell in cells(suite, factor)], is_quick=True)


def assert_is_picture(path: Path) -> None:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(data) > 8_000


@drawn
@pytest.mark.parametrize("factor", [1.0, 0.9, 40.0])
def test_a_suite_has_a_picture_of_ratios_and_one_of_rates(tmp_path: Path, factor: float) -> None:
    made = plots.plot_all(results("peers", "edge (emulated)", factor=factor), tmp_path)
    assert {suite: [Path(path).name for path in paths] for suite, paths in made.items()} == {
        "peers": ["peers-ratios.png", "peers-rates.png"],
        "edge (emulated)": ["edge-emulated-ratios.png", "edge-emulated-rates.png"],
    }
    for path in tmp_path.iterdir():
        assert_is_picture(path)


@drawn
def test_what_a_suite_has_not_is_not_drawn(tmp_path: Path) -> None:
    plain = Value(metric="plan, median", unit="ms", value=1.0)
    worth = Value(metric="exact price / price", unit="x", value=0.99)
    some = result_of(
        [
            Cell(suite="planner", place="8 streams", system="joint", values=(plain,)),
            Cell(suite="none", place="x", system="y", reference="z"),
            Cell(suite="gap", place="x", system="joint", reference="exact", ratios=(worth,)),
        ]
    )
    made = plots.plot_all(some, tmp_path)
    assert [Path(path).name for paths in made.values() for path in paths] == ["gap-ratios.png"]
    assert_is_picture(tmp_path / "gap-ratios.png")


def asked(tmp_path: Path) -> str:
    path = tmp_path / "result.json"
    path.write_text(to_json(results("peers")))
    done = CliRunner().invoke(report_command, [str(path), "--plots", str(tmp_path / "plots")])
    assert done.exit_code == 0, done.output
    return done.output


@drawn
def test_a_report_links_its_pictures(tmp_path: Path) -> None:
    assert f"![peers]({tmp_path}/plots/peers-ratios.png)" in asked(tmp_path)
    assert_is_picture(tmp_path / "plots" / "peers-rates.png")


def test_without_matplotlib_the_report_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    text = asked(tmp_path)
    assert "Plots were left out: matplotlib is not installed" in text
    assert "![" not in text
    assert "## peers" in text
    assert not (tmp_path / "plots").exists()


def test_a_result_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for text, says in ((None, "No such file"), ("{}", "schema: Field required")):
        if text is not None:
            path.write_text(text)
        done = CliRunner().invoke(report_command, [str(path)])
        assert done.exit_code == 1
        assert says in done.output
    path.write_text(to_json(results("peers")))
    done = CliRunner().invoke(report_command, [str(path)])
    assert done.exit_code == 0
    assert "## peers" in done.output
