"""`airdraft plan`: what it prints, and one line for each file that cannot be read."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from airdraft.nodes.cli.main import cli, main
from airdraft.policies.baselines import POLICIES
from tests.cli.commands import ROOT
from tests.policies.scenarios import GOOD

SCENARIOS = ROOT / "bench" / "scenarios"
SHIPPED = ("two-boxes-wifi", "narrow-cell", "jetson-cluster", "split-nanos")
# Those in which some streams have no guesses.
WITH_PLAIN = ("narrow-cell", "jetson-cluster")


def plan(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["plan", *map(str, arguments)], catch_exceptions=False)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_plan_reads_well_and_is_one_object_for_scripts(name: str) -> None:
    path = SCENARIOS / f"{name}.toml"
    result = plan(path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.isascii()
    lines = result.stdout.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    for part in (", policy joint: ", "streams     gamma ", " draft off: ", "best other plan: "):
        assert (part in result.stdout) == (part != " draft off: " or name in WITH_PLAIN), part
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
    if name == "split-nanos":
        assert [share["name"] for share in found["shares"]] == ["nano-1", "the target"]


def test_a_scenario_without_a_name_goes_by_its_file_and_names_files_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace('name = "a test"\n', ""))
    assert plan(path, "--policy", "ad").stdout.startswith("mine.toml, policy ad: ")
    path.write_text(GOOD)
    assert plan(path).stdout.startswith("a test, policy joint: ")
    monkeypatch.chdir(tmp_path)
    assert plan(SCENARIOS / "narrow-cell.toml").exit_code == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\nb = = 2\n", "scenario {path} is not valid TOML: Invalid value (at line 2"),
        (b"\xff\xfe", "scenario {path} is not valid TOML: 'utf-8' codec"),
        ("a = " + "9" * 5000, "scenario {path} is not valid TOML: Exceeds the limit"),
        ("a = " + "[" * 100_000, "scenario {path} is not valid TOML: "),
        ("", "{path}: target is missing: a table is accepted"),
        ('target.device = "none.toml"', "{path}: target.device = 'none.toml': file {folder}/none"),
        ('target.device = "."', "{path}: target.device = '.': file {folder} cannot be read: Is a"),
        ('target.device = "broken.toml"', "{path}: target.device = 'broken.toml': file {folder}/"),
        ('target.device = "\\u0000"', "{path}: target.device = '\\x00': file {folder}/\\x00 is"),
        ('target.device = "empty.toml"', "{path}: empty.toml: device is missing: a table is "),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_a_bad_file_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str | bytes,
    message: str,
) -> None:
    (tmp_path / "broken.toml").write_text("x = = 1\n")
    (tmp_path / "empty.toml").write_text("")
    path = tmp_path / "bad.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    monkeypatch.setattr(sys, "argv", ["airdraft", "plan", str(path)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 78
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: " + message.format(path=path, folder=tmp_path))
