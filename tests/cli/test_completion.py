from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import click
import pytest

from nodes.cli.main import cli
from nodes.cli.version import version_text
from tests.cli.commands import Commands


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(tmp_path: Path, shell: str) -> None:
    done = Commands(tmp_path).run("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_AIRDRAFT_COMPLETE={shell}_complete" in done.stdout
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=done.stdout, text=True, check=False)
        assert checked.returncode == 0


def test_names_are_completed() -> None:
    with click.Context(cli) as context:
        assert [item.value for item in cli.shell_complete(context, "no")] == ["nodes"]


def test_an_unknown_shell_is_a_line(tmp_path: Path) -> None:
    done = Commands(tmp_path).run("completion", "tcsh")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in line


def test_the_version_names_what_it_stands_on(tmp_path: Path) -> None:
    done = Commands(tmp_path).run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("airdraft ", "Python ", "pyzmq ", "libzmq ", "msgpack ", "numpy "):
        assert name in done.stdout
    assert "llama-cpp-python" in done.stdout
    assert version_text(lambda _: "1.2").startswith("airdraft 1.2\nPython ")


def test_each_command_is_found_and_one_that_is_none_is_not(tmp_path: Path) -> None:
    with click.Context(cli) as context:
        for name in cli.list_commands(context):
            command = cli.get_command(context, name)
            assert command is not None
            assert command.name == name
    done = Commands(tmp_path).run("upp")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: No such command 'upp'.")
