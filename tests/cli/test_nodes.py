import json
from typing import Any

import pytest
from click.testing import CliRunner

import airdraft.nodes.cli.nodes
from airdraft.nodes.cli.main import cli
from airdraft.nodes.cli.nodes import drain_command, table_of
from airdraft.nodes.messages import NodeFields, NodesReply
from tests.cli.commands import Commands, error_line
from tests.nodes.api.toy_mesh import toy_mesh


def test_nodes_are_listed_drained_and_dropped(commands: Commands) -> None:
    with toy_mesh(num_targets=2) as mesh:
        there = ("--connect", mesh.endpoint)
        listed = commands.printed("nodes", "list", *there).splitlines()
        names = [line.split()[0] for line in listed]
        assert (names[0], sorted(names[1:])) == ("node", ["draft", "target-0", "target-1"])
        for command, name, says in (
            ("drain", "target-9", "no node is named target-9, did you mean target-"),
            ("undrain", "target-0", "target-0 is not being drained"),
            ("drop", "zzz", "no node is named zzz; present nodes: "),
        ):
            done = commands.run("nodes", command, name, *there)
            assert (done.returncode, error_line(done).startswith(says)) == (1, True)
        assert commands.printed("nodes", "drain", "target-0", *there) == "target-0 has left"
        assert commands.printed("nodes", "drop", "draft", *there) == "draft has been removed"
        left = json.loads(commands.printed("nodes", "list", "--json", *there))
        assert [node["node"] for node in left] == ["target-1"]
        # Those that were told to leave do not come back.
        for name in ("target-0", "draft"):
            assert mesh.nodes[name].done()


@pytest.mark.parametrize(
    "command", ["nodes list", "nodes drain x", "top --json", "keys rotate", "chat", "generate -"]
)
def test_the_environment_says_where_the_mesh_is_for_every_command(command: str) -> None:
    environ = {"AIRDRAFT_CONNECT": "10.0.0.1:7411"}
    done = CliRunner().invoke(cli, command.split(), input="hello\n", env=environ)
    assert "endpoint '10.0.0.1:7411'" in f"{done.stderr}{done.exception}"


def test_the_table_says_what_is_special() -> None:
    nodes = (
        NodeFields("a/target", "target", "big", False, True, 3, True, 1500, "aa" * 32, "3fa9c1d2"),
        NodeFields("b/target", "target", "big", True, False, 0, False, 0, "bb" * 32, "77bc0011"),
        NodeFields("c", "target", "big", True, False, 0, False, 0, "bb" * 32, "77bc0011~12"),
        NodeFields("d", "draft", "small", False, False, 0, False, 0, "cc" * 32, "unused"),
        # Names that nodes choose give the terminal no commands.
        NodeFields("e", "draft", "\x1b]0;x\x07", False, False, 0, False, 0),
    )
    head = "node      role    state     model         class        streams  rtt     notes"
    notes = "emulated, not exact", "computes other bits than its class"
    assert table_of(nodes).splitlines() == [
        head,
        f"a/target  target  draining  big@aaaaaaaa  3fa9c1d2     3        1.5 ms  {notes[0]}",
        "b/target  target  up        big@bbbbbbbb  77bc0011     0        -",
        f"c         target  up        big@bbbbbbbb  77bc0011~12  0        -       {notes[1]}",
        "d         draft   up        small         -            -        -",
        "e         draft   up        ?]0;x?        -            -        -",
    ]


def test_who_drains_is_told_that_somebody_took_it_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Taken:
        """A client that finds the node as if nobody had drained it."""

        async def command_node(self, *_: str) -> int:
            return 1

        async def nodes(self) -> NodesReply:
            node = NodeFields("target-0", "target", "m", True, False, 1, False, 0)
            return NodesReply(1, (node,))

    async def with_taken(_connect: str, _keys: None, use: Any, **_: str) -> Any:
        return await use(Taken())

    monkeypatch.setattr(airdraft.nodes.cli.nodes, "with_client", with_taken)
    with pytest.raises(SystemExit) as ended:
        drain_command.main(["target-0"], standalone_mode=False)
    assert ended.value.code == 1
    reason = "target-0 takes streams again: its drain was cancelled"
    assert capsys.readouterr().err == f"error: {reason}\n"


def test_a_node_says_when_it_is_ready(commands: Commands) -> None:
    with toy_mesh() as mesh:
        options = ("--model", "toy:1", "--name", "extra", "--connect", mesh.endpoint)
        with commands.started("target", *options) as process:
            assert process.stderr is not None
            said = process.stderr.readline()
            assert said == f"extra is ready: it joined the mesh at {mesh.endpoint}\n"
