"""`python -m bench chaos links|cuts|stalls|draftless|toxics`: what they say and how they end."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from bench.chaos.links import ailing, command, cuts, profiles, stalls
from bench.netns import NamespacesError
from tests.bench.chaos.links.test_ailing import FIGURES as AILING
from tests.bench.chaos.links.test_profiles import figures


def invoke(which: Any, *arguments: str) -> Any:
    return CliRunner().invoke(which, list(arguments))


@pytest.mark.parametrize(("deaths", "status"), [([], 0), (["draft-0 silent"], 1)])
def test_links_ends_as_its_figures_say(
    monkeypatch: pytest.MonkeyPatch, deaths: list[str], status: int
) -> None:
    asked: list[Any] = []

    async def run_profile(*arguments: Any) -> Any:
        asked.append(arguments)
        return figures(deaths=deaths)

    monkeypatch.setattr(profiles, "run_profile", run_profile)
    result = invoke(command.links_command, "--profiles", "wifi,good", "--seconds", "5")
    assert result.exit_code == status
    assert "*emulated* (a kind), seed 1" in result.output
    assert [(p.name, s.seconds, means) for p, s, means in asked] == [
        ("wifi", 5.0, "tun"),
        ("good", 5.0, "tun"),
    ]
    assert ("false deaths: draft-0 silent" in result.output) == bool(deaths)


def test_cuts_and_stalls_report_and_end_by_their_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_cuts(kinds: Any, times: int, seed: int, means: str, report: Any) -> Any:
        report(f"{kinds} {times} {seed} {means}")
        return [cuts.CutFigures("blackout", [9.0], [1.0])]

    async def run_stalls(*arguments: Any) -> Any:
        arguments[-1](" ".join(map(str, arguments[:-1])))
        return [stalls.StallFigures("kill", 8, 0.001, [1.0])]

    monkeypatch.setattr(cuts, "run_cuts", run_cuts)
    monkeypatch.setattr(stalls, "run_stalls", run_stalls)
    result = invoke(command.cuts_command, "--kinds", "blackout", "--times", "3")
    assert result.exit_code == 1
    assert "['blackout'] 3 1 tun\nblackout: noticed after 9.0 s\n" in result.output
    result = invoke(command.stalls_command, "--means", "proxy", "--hows", "kill")
    assert result.exit_code == 1
    assert "['kill'] 20 8 1 proxy\nkill: no stream had to wait" in result.output


def test_toxics_says_what_it_is_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_toxic(*_arguments: Any) -> Any:
        return AILING

    monkeypatch.setattr(ailing, "run_toxic", run_toxic)
    result = invoke(command.toxics_command, "--toxics", "reset")
    assert result.exit_code == 0
    assert result.output.startswith("*emulated* devices (TCP proxy with toxics), seed 1\n")


def test_without_namespaces_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_profile(*_arguments: Any) -> Any:
        raise NamespacesError("network namespaces need root and `ip`")

    monkeypatch.setattr(profiles, "run_profile", run_profile)
    result = invoke(command.links_command)
    assert result.exit_code == 1
    assert result.output == (
        "Error: network namespaces need root and `ip`; --means proxy needs no namespaces, "
        "but loses no packets\n"
    )


@pytest.mark.parametrize(
    ("which", "option"),
    [
        (command.links_command, "--profiles"),
        (command.cuts_command, "--kinds"),
        (command.stalls_command, "--hows"),
        (command.draftless_command, "--hows"),
        (command.toxics_command, "--toxics"),
    ],
)
def test_an_unknown_name_is_a_usage_error(which: Any, option: str) -> None:
    result = invoke(which, option, "gale")
    assert result.exit_code == 2
    assert f"Error: {option}: unknown 'gale'; accepted are " in result.output
