"""`airdraft plan`: what it prints, and one line for everything a user can get wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nodes.cli.main import cli, main
from policies.baselines import POLICIES
from tests.cli.commands import ROOT

SCENARIOS = ROOT / "bench" / "scenarios"
SHIPPED = ("two-boxes-wifi", "narrow-cell", "jetson-cluster")
GOOD = """\
[target]
decode = {sizes = [1, 64], seconds = [0.04, 0.06]}
[[draft]]
name = "a"
decode = {sizes = [1, 64], seconds = [0.004, 0.008]}
[[streams]]
acceptance = 0.9
draft = "a"
"""


def plan(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["plan", *map(str, arguments)], catch_exceptions=False)


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the whole command; its exit code and its one line."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["airdraft", "plan", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith("error: ")
        assert isinstance(caught.value.code, int)
        return caught.value.code, line.removeprefix("error: ")

    return run


@pytest.mark.parametrize("name", SHIPPED)
def test_a_plan_reads_well_and_is_one_object_for_scripts(name: str) -> None:
    path = SCENARIOS / f"{name}.toml"
    result = plan(path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.isascii()
    lines = result.stdout.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    for start in ("batch ", "predicted: a cycle of ", "joint ", "target ", "why"):
        assert [line for line in lines if line.startswith(start)] != [], start
    assert result.stdout.count("<- chosen") == result.stdout.count(" best rejected\n") == 1
    result = plan(path, "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, result.stdout.count("\n")) == (0, 1)
    assert (found["scenario"], found["policy"]) == (str(path), "joint")
    streams = [s for batch in found["batches"] for s in batch["streams"]]
    streams += [s for group in found["plain"] for s in group["streams"]]
    assert sorted(streams) == list(range(1, len(streams) + 1))
    prices = {item["name"]: item["price_s"] for item in found["policies"]}
    assert set(prices) == set(POLICIES)
    assert found["price_s"] == prices["joint"]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_plans(policy: str) -> None:
    found = json.loads(plan(SCENARIOS / "narrow-cell.toml", "--policy", policy, "--json").stdout)
    assert found["policy"] == policy
    relative = {item["name"]: item["relative"] for item in found["policies"]}
    assert relative[policy] == 0


def test_a_scenario_without_a_name_goes_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "mine.toml", GOOD)
    assert plan(path).stdout.startswith("mine.toml: 1 stream, 1 draft node; policy joint\n")
    path.write_text('name = "at home"\n' + GOOD)
    assert plan(path).stdout.startswith("at home: 1 stream")
    # Its own files are found beside it, whatever the current folder is.
    monkeypatch.chdir(tmp_path)
    assert plan(SCENARIOS / "narrow-cell.toml").exit_code == 0


# -- bad input -------------------------------------------------------------------------------------


def test_an_unknown_policy_is_told_with_all_that_are_known(tmp_path: Path, refused) -> None:
    code, line = refused(written(tmp_path / "x.toml", GOOD), "--policy", "jont")
    assert code == 2
    assert "'jont'" in line
    assert [name for name in POLICIES if f"'{name}'" not in line] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\nb = = 2\n", "{path} is not valid TOML: Invalid value (at line 2, column 5)"),
        ("[target\n", "{path} is not valid TOML: "),
        (b"\xff\xfe", "{path} is not valid TOML: 'utf-8' codec"),
        ("a = " + "9" * 5000, "{path} is not valid TOML: Exceeds the limit"),
        ("a = " + "[" * 100_000, "{path} is not valid TOML: "),
        ("", "{path}: target is missing: a table is accepted"),
        (GOOD.replace("0.9", "1.9"), "{path}: streams[0].acceptance = 1.9: a number from 0 to 1"),
        (GOOD + "gama = 1\n", "{path}: streams[0].gama = 1: unknown key, did you mean streams[0]"),
        (GOOD + "[extra]\n", "{path}: extra = {{}}: unknown key, known: name, models,"),
    ],
)
def test_a_bad_scenario_is_one_line(
    tmp_path: Path, refused, text: str | bytes, message: str
) -> None:
    path = written(tmp_path / "bad.toml", text)
    code, line = refused(path)
    assert code == 78
    assert line.startswith(message.format(path=path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.toml", "'none.toml': no such file or directory; the path of a TOML file, relative"),
        (".", "'.': is a directory; the path of a TOML file, relative to the scenario, is accepte"),
        ("broken.toml", "'broken.toml': not valid TOML: Invalid value (at line 1, column 5)"),
        ("\\u0000", "'\\x00': not valid TOML: embedded null byte"),
        ("empty.toml", "'empty.toml': a table, or the path of a TOML file with a table [device]"),
    ],
)
def test_a_bad_profile_is_told_with_its_key(
    tmp_path: Path, refused, name: str, message: str
) -> None:
    written(tmp_path / "broken.toml", "x = = 1\n")
    written(tmp_path / "empty.toml", "")
    path = written(tmp_path / "bad.toml", f'target.device = "{name}"\ntarget.model = "m"\n')
    code, line = refused(path)
    assert code == 78
    assert line.startswith(f"{path}: target.device = {message}")
