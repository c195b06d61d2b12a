from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import Commands


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    made = Commands(tmp_path)
    try:
        yield made
    finally:
        made.kill_all()


def test_a_key_is_shown_once_listed_by_name_and_removed(commands: Commands) -> None:
    added = commands.run("apikeys", "add", "laptop", "--max-concurrent", "4", "--scope", "infer")
    key = added.stdout.strip()
    assert (added.returncode, added.stderr) == (0, "")
    assert key.startswith("ad-")
    path = commands.tmp / "keys" / "apikeys.toml"
    assert path.stat().st_mode & 0o777 == 0o600
    listed = commands.run("apikeys", "list").stdout
    assert listed == "laptop  infer  concurrent <= 4\n"
    assert key not in path.read_text()
    assert commands.run("apikeys", "remove", "laptop").returncode == 0
    assert commands.run("apikeys", "list").stdout == ""


def test_errors_are_one_line(commands: Commands) -> None:
    commands.run("apikeys", "add", "laptop")
    for arguments, code in (
        (("add", "laptop"), 78),
        (("add", "no name"), 78),
        (("add", "x", "--scope", "root"), 2),
        (("remove", "desk"), 78),
    ):
        done = commands.run("apikeys", *arguments)
        assert (done.returncode, done.stdout) == (code, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
