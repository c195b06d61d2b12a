from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nodes.cli.nodes
from nodes.cli.nodes import drain_command, table_of
from nodes.messages import NodeFields, NodesReply
from tests.cli.commands import Commands
from tests.nodes.api.toy_mesh import ToyMesh, toy_mesh


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    made = Commands(tmp_path)
    try:
        yield made
        assert made.alive() == {}
    finally:
        made.kill_all()


@pytest.fixture
def mesh() -> Iterator[ToyMesh]:
    with toy_mesh(num_targets=2) as made:
        yield made


def test_a_target_that_computes_other_bits_than_its_class_is_marked() -> None:
    apart = NodeFields("t", "target", "big", True, False, 0, numerics_class="c~12")
    assert "computes other bits than its class" in table_of([apart])
    assert "other bits" not in table_of([replace(apart, numerics_class="c")])


def test_a_node_says_when_it_is_ready(commands: Commands, mesh: ToyMesh) -> None:
    options = ("--model", "toy:1", "--name", "extra", "--connect", mesh.endpoint)
    with commands.started("target", *options) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert said == f"extra is ready: it joined the mesh at {mesh.endpoint}\n"


def test_nodes_are_listed_drained_and_dropped(commands: Commands, mesh: ToyMesh) -> None:
    there = ("--connect", mesh.endpoint)
    listed = commands.run("nodes", "list", *there)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert re.findall(r"^(\S+)", listed.stdout, re.MULTILINE) == [
        "node",
        *sorted(("target-0", "target-1", "draft"), key=listed.stdout.index),
    ]
    drained = commands.run("nodes", "drain", "target-0", *there)
    assert (drained.returncode, drained.stdout) == (0, "target-0 has left\n")
    dropped = commands.run("nodes", "drop", "draft", *there)
    assert (dropped.returncode, dropped.stdout) == (0, "draft has been removed\n")
    left = json.loads(commands.run("nodes", "list", "--json", *there).stdout)
    assert [node["node"] for node in left] == ["target-1"]
    # Those that were told to leave do not come back.
    for name in ("target-0", "draft"):
        assert mesh.nodes[name].done()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("drain", "target-9"), "error: no node is named target-9, did you mean target-"),
        (("undrain", "target-0"), "error: target-0 is not being drained"),
        (("drop", "zzz"), "error: no node is named zzz; present nodes: "),
    ],
)
def test_what_cannot_be_done_is_a_line(
    commands: Commands, mesh: ToyMesh, arguments: tuple[str, ...], says: str
) -> None:
    done = commands.run("nodes", *arguments, "--connect", mesh.endpoint)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert line.startswith(says)


def test_the_table_says_what_is_special() -> None:
    nodes = (
        NodeFields("a/target", "target", "big", False, True, 3, True, 1500, "aa" * 32, "3fa9c1d2"),
        NodeFields("b/target", "target", "big", True, False, 0, False, 0, "bb" * 32, "77bc0011"),
        NodeFields("d", "draft", "small", False, False, 0, False, 0, "cc" * 32, "unused"),
    )
    assert table_of(nodes).splitlines() == [
        "node      role    state     model         class     streams  rtt     notes",
        "a/target  target  draining  big@aaaaaaaa  3fa9c1d2  3        1.5 ms  emulated, not exact",
        "b/target  target  up        big@bbbbbbbb  77bc0011  0        -",
        "d         draft   up        small         -         -        -",
    ]


def test_names_that_nodes_choose_give_the_terminal_no_commands() -> None:
    node = NodeFields("a", "draft", "\x1b]0;x\x07", False, False, 0, False, 0)
    assert table_of([node]).splitlines()[1].split() == ["a", "draft", "up", "?]0;x?", "-", "-", "-"]


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

    monkeypatch.setattr(nodes.cli.nodes, "with_client", with_taken)
    with pytest.raises(SystemExit) as ended:
        drain_command.main(["target-0"], standalone_mode=False)
    assert ended.value.code == 1
    reason = "target-0 takes streams again: its drain was cancelled"
    assert capsys.readouterr().err == f"error: {reason}\n"
