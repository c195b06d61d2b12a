"""The commands' own checks, and the table of seeds."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bench.chaos.command import chaos
from bench.chaos.kills.seeds import Entry, entries, run_again


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["kills", "--roles", "draft,boss"], "accepted are draft, target, coordinator"),
        (["kills", "--kills", "0"], "--kills"),
        (["points", "--points", "send.Nothing"], "unknown point 'send.Nothing'"),
    ],
)
def test_what_is_not_accepted_is_said(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(chaos, arguments)
    assert result.exit_code == 2
    assert says in result.output


def test_every_seed_is_of_a_command_that_there_is() -> None:
    found = entries()
    assert found
    for entry in found:
        name, *arguments = entry.command
        command = chaos.commands[name]
        # Parsed, not run.
        context = command.make_context(name, arguments)
        assert context.params["seed"] is not None
        assert entry.was.endswith(".")


def test_what_goes_wrong_again_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    group = click.Group("chaos")

    @group.command("good")
    def good() -> None:
        pass

    @group.command("bad")
    @click.option("--seed", type=int)
    def bad(seed: int) -> None:
        raise SystemExit(seed)

    wanted = [Entry(("good",), "A."), Entry(("bad", "--seed", "1"), "B."), Entry(("good",), "C.")]
    assert run_again(group, wanted) == [wanted[1]]
    assert "bad --seed 1\n  B." in capsys.readouterr().err


def test_a_table_of_seeds_is_toml(tmp_path: Path) -> None:
    path = tmp_path / "seeds.toml"
    path.write_text('[[seed]]\ncommand = ["kills", "--seed", "4"]\nwas = "A."\n')
    assert entries(path) == [Entry(("kills", "--seed", "4"), "A.")]
