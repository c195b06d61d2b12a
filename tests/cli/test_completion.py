import shutil
import subprocess

import click
import pytest

from nodes.cli.main import cli
from tests.cli.commands import Commands


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(commands: Commands, shell: str) -> None:
    script = commands.printed("completion", shell)
    assert f"_AIRDRAFT_COMPLETE={shell}_complete" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_each_command_is_found_and_its_name_completed() -> None:
    with click.Context(cli) as context:
        assert [item.value for item in cli.shell_complete(context, "no")] == ["nodes"]
        for name in cli.list_commands(context):
            command = cli.get_command(context, name)
            assert command is not None
            assert command.name == name
