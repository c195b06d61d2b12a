"""A mesh in the background, the list of what runs, and how it is stopped."""

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import Commands, error_line, stopped, wait_until

pytestmark = pytest.mark.timeout(300)

TOYS = ("toy:1", "--draft", "none", "--port", "0")


@pytest.fixture
def user(commands: Commands) -> Iterator[dict[str, str]]:
    """The folders of a user, of whom nothing runs at the end."""
    # A path as short as that of a user's runtime directory, for the socket.
    with tempfile.TemporaryDirectory(prefix="run-") as folder:
        found = {"XDG_RUNTIME_DIR": folder, "XDG_STATE_HOME": f"{folder}/state"}
        yield found
        while commands.run("stop", **found).returncode == 0:
            pass


def listed(commands: Commands, user: dict[str, str]) -> list[list[str]]:
    """The rows of `ps`, without their titles."""
    rows = commands.run("ps", **user).stdout.splitlines()[1:]
    return [row.split() for row in rows]


def test_a_mesh_in_the_background_is_listed_named_and_stopped(
    commands: Commands, user: dict[str, str]
) -> None:
    log = Path(user["XDG_STATE_HOME"], "airdraft", "serve.log")
    log.parent.mkdir(mode=0o700, parents=True)
    log.write_bytes(b"an old line\n" * 100_000)
    said = commands.printed("serve", *TOYS, "--background", **user).splitlines()
    assert log.stat().st_size < log.with_name("serve.log.old").stat().st_size
    endpoint, url = said[0].split()[-1], said[1].split()[-1]
    (pid,) = commands.alive("serve")
    assert said[2].startswith(f"pid {pid}, log {log}; ")
    # It has a session of its own, and nothing of this one's standard files.
    assert os.getsid(pid) == pid
    assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in (1, 2)} == {str(log)}
    assert [row[:5] for row in listed(commands, user)] == [
        [str(pid), "serve", "airdraft", "toy:1", url]
    ]
    assert commands.run("generate", "hi", "--raw", "--max-tokens", "4", **user).returncode == 0
    # A second one says at once that this one runs.
    second = commands.run("serve", "nothing", "--background", **user)
    assert f"a mesh already runs on this machine, at {endpoint} (pid {pid})" in error_line(second)
    assert commands.printed("stop", **user) == f"stopped serve airdraft (pid {pid})"
    assert commands.alive() == {}
    assert listed(commands, user) == []


@pytest.mark.parametrize(
    ("model", "code", "said"),
    [("toy:x", 78, "engine.model = 'toy:x': toy:0 to toy:1"), ("none", 2, "unknown model 'none'")],
)
def test_a_mesh_that_does_not_start_says_why_in_a_line(
    commands: Commands, user: dict[str, str], model: str, code: int, said: str
) -> None:
    done = commands.run("serve", model, *TOYS[1:], "--background", **user)
    assert said in error_line(done)
    assert done.returncode in (1, code)
    assert commands.alive() == {}


def test_what_runs_in_terminals_is_listed_and_stopped_by_name_or_pid(
    commands: Commands, user: dict[str, str]
) -> None:
    with contextlib.ExitStack() as stack:
        coordinator, endpoint = stack.enter_context(commands.listening("coordinator", **user))
        node = ("target", "--model", "toy:1", "--name", "big")
        target = stack.enter_context(commands.started(*node, **user))
        # A table of a mesh without a model has a column less in its row.
        rows = [
            [str(coordinator.pid), "coordinator", "airdraft", endpoint],
            [str(target.pid), "target", "big", "toy:1", endpoint],
        ]
        wait_until(lambda: [row[:-2] for row in listed(commands, user)] == rows)
        assert "nothing runs in the background" in error_line(commands.run("stop", **user))
        assert commands.printed("stop", "big", **user) == f"stopped target big (pid {target.pid})"
        assert target.wait(0) == 0
        pid = str(coordinator.pid)
        assert commands.printed("stop", pid, **user) == f"stopped coordinator airdraft (pid {pid})"
        assert coordinator.wait(0) == 0


def test_one_that_was_killed_is_not_listed(commands: Commands, user: dict[str, str]) -> None:
    with commands.listening("coordinator", **user) as (process, _):
        assert [row[1] for row in listed(commands, user)] == ["coordinator"]
        stopped(process, signal.SIGKILL, -signal.SIGKILL)
    assert listed(commands, user) == []
    # It left its file, which is gone now.
    assert list(Path(user["XDG_RUNTIME_DIR"], "airdraft").glob("*.run")) == []
