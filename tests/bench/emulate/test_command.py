"""`python -m bench air`: what it says and how it ends."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from bench.emulate import command
from bench.harness.report import Findings
from bench.netns import NamespacesError


@pytest.mark.parametrize(("faults", "status"), [([], 0), (["turns: 1.2"], 1)])
def test_it_ends_as_the_ratios_say(
    monkeypatch: pytest.MonkeyPatch, faults: list[str], status: int
) -> None:
    asked: list[tuple[object, ...]] = []

    async def run_check(*arguments: object) -> Findings:
        asked.append(arguments)
        return Findings(["the tables"], faults)

    monkeypatch.setattr(command, "run_check", run_check)
    result = CliRunner().invoke(command.air_command, ["--repeats", "3", "--slowest-kbps", "25"])
    assert (result.exit_code, "the tables" in result.output) == (status, True)
    assert asked == [(25e3, 0.002, 3, "auto")]


def test_what_cannot_be_made_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_check(*arguments: object) -> Findings:
        raise NamespacesError("network namespaces need root and `ip`")

    monkeypatch.setattr(command, "run_check", run_check)
    result = CliRunner().invoke(command.air_command, ["--means", "tun"])
    assert result.exit_code == 1
    assert result.output == "Error: network namespaces need root and `ip`\n"


def test_a_rate_that_cannot_be_is_a_usage_error() -> None:
    result = CliRunner().invoke(command.air_command, ["--slowest-kbps", "0"])
    assert result.exit_code == 2
    assert "'--slowest-kbps': 0.0 is not in the range x>0" in result.output
