"""Why a node's process ended, as a supervisor sees it: whether it should start it again."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.messages import PROTOCOL_VERSION
from tests.cli.commands import LIMIT_S, Commands, wait_until

LISTEN = ("coordinator", "--listen", "tcp://127.0.0.1:*")
# Before anything else has it.
PATCHED = (
    "import mesh.messages as m; m.PROTOCOL_VERSION += 1; from nodes.cli.main import main; main()"
)


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    made = Commands(tmp_path)
    try:
        yield made
        assert made.alive() == {}
    finally:
        made.kill_all()


class Later(Commands):
    """Of the next version of the protocol."""

    def __init__(self, commands: Commands) -> None:
        self.tmp, self._mark = commands.tmp, commands._mark

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-c", PATCHED, *arguments]


def endpoint_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().removeprefix("listening on ").strip()


def stopped(process: subprocess.Popen[str]) -> str:
    """What a service has logged that is stopped in good order."""
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    return errors


@pytest.mark.parametrize("role", ["target", "draft", "generate"])
@pytest.mark.parametrize("is_node_later", [False, True])
def test_versions_that_do_not_match_are_refused_in_a_line_on_both_sides(
    commands: Commands, role: str, is_node_later: bool
) -> None:
    later = Later(commands)
    hub, node = (commands, later) if is_node_later else (later, commands)
    with hub.started(*LISTEN) as coordinator:
        more = ("--prompt", "x") if role == "generate" else ("--model", "toy:1")
        done = node.run(role, "--connect", endpoint_of(coordinator), *more)
        assert done.returncode == 76
        theirs = PROTOCOL_VERSION + is_node_later
        ours = PROTOCOL_VERSION + (not is_node_later)
        reason = (
            f"protocol {theirs} differs from the coordinator's {ours}: use one version of airdraft"
        )
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: {reason}")
        assert [reason in line for line in stopped(coordinator).splitlines()].count(True) == 1


@pytest.mark.parametrize(("role", "command"), [("target", "drop"), ("draft", "drain")])
def test_a_node_that_an_operator_sent_away_is_not_to_be_started_again(
    commands: Commands, role: str, command: str
) -> None:
    with commands.started(*LISTEN) as coordinator:
        endpoint = endpoint_of(coordinator)
        with commands.started(role, "--connect", endpoint, "--model", "toy:1") as node:
            ask = ("nodes", command, role, "--connect", endpoint)
            wait_until(lambda: commands.run(*ask).returncode == 0)
            _, errors = node.communicate(timeout=LIMIT_S)
            assert node.returncode == 79
            ready, line = errors.splitlines()
            assert " is ready" in ready
            assert "by an operator" in line
        stopped(coordinator)


@pytest.mark.parametrize(
    ("endpoint", "code"),
    # Nobody there; a mesh elsewhere, of which this machine has no keys.
    [("tcp://127.0.0.1:1", 69), ("tcp://192.0.2.1:7411", 78)],
)
def test_a_chat_that_cannot_begin_ends_as_a_request_would(
    commands: Commands, endpoint: str, code: int
) -> None:
    codes = {
        command[0]: commands.run(*command, "--connect", endpoint).returncode
        for command in (("chat",), ("generate", "--prompt", "x"))
    }
    assert codes == {"chat": code, "generate": code}
