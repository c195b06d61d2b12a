"""Why a node's process ended, as a supervisor sees it: whether it should start it again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mesh.messages import PROTOCOL_VERSION
from tests.cli.commands import LIMIT_S, Commands, error_line, stopped, wait_until

LISTEN = ("coordinator", "--listen", "tcp://127.0.0.1:*")
# Before anything else has it.
PATCHED = (
    "import mesh.messages as m; m.PROTOCOL_VERSION += 1; from nodes.cli.main import main; main()"
)


class Later(Commands):
    """Of the next version of the protocol."""

    def command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-c", PATCHED, *arguments]


@pytest.mark.parametrize("role", ["target", "draft", "generate"])
@pytest.mark.parametrize("is_node_later", [False, True])
def test_versions_that_do_not_match_are_refused_in_a_line_on_both_sides(
    commands: Commands, tmp_path: Path, role: str, is_node_later: bool
) -> None:
    (tmp_path / "later").mkdir()
    later = Later(tmp_path / "later")
    hub, node = (commands, later) if is_node_later else (later, commands)
    with hub.listening(*LISTEN) as (coordinator, endpoint):
        more = ("--prompt", "x") if role == "generate" else ("--model", "toy:1")
        done = node.run(role, "--connect", endpoint, *more)
        theirs = PROTOCOL_VERSION + is_node_later
        ours = PROTOCOL_VERSION + (not is_node_later)
        reason = (
            f"protocol {theirs} differs from the coordinator's {ours}: use one version of airdraft"
        )
        assert (done.returncode, error_line(done).startswith(reason)) == (76, True)
        assert sum(reason in line for line in stopped(coordinator).splitlines()) == 1


@pytest.mark.parametrize(("role", "command"), [("target", "drop"), ("draft", "drain")])
def test_a_node_that_an_operator_sent_away_is_not_to_be_started_again(
    commands: Commands, role: str, command: str
) -> None:
    with commands.listening(*LISTEN) as (coordinator, endpoint):
        with commands.started(role, "--connect", endpoint, "--model", "toy:1") as node:
            ask = ("nodes", command, role, "--connect", endpoint)
            wait_until(lambda: commands.run(*ask).returncode == 0)
            _, errors = node.communicate(timeout=LIMIT_S)
            assert node.returncode == 79
            ready, line = errors.splitlines()
            assert ready.endswith(f" is ready: it joined the mesh at {endpoint}")
            assert "by an operator" in line
        stopped(coordinator)
