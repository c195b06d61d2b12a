"""Stages as members: where targets find them, who may use them, and what clients are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airdraft.mesh.authorized import AuthorizedNodes, Entry
from airdraft.mesh.codec import encode_struct
from airdraft.mesh.security import new_key_pair
from airdraft.nodes.messages import (
    StageFields,
    StageNotice,
    StagesReply,
    StagesRequest,
    StageUserNotice,
)
from airdraft.nodes.messages.access import ROLES, Caller
from tests.nodes.builders import make_profile
from tests.nodes.coordinator.script import CLIENT, Mesh
from tests.nodes.coordinator.shell import Shell

TARGETS_KEY = "k" * 40
TARGETS = Caller("box", frozenset({"target"}))


def mesh_with_stages() -> Mesh:
    mesh = Mesh()
    for name in ("nano-1/stage", "nano-2/stage"):
        mesh.join(name.encode(), "stage", name=name)
        mesh.hear(name.encode(), StageNotice(f"tcp://{name[:6]}:7412", name[:6] * 6, ""))
    return mesh


def asked(mesh: Mesh, *names: str, now: float = 0.0, caller: Caller = TARGETS) -> Any:
    return mesh.state.stages_asked(b"asker", TARGETS_KEY, caller, StagesRequest(names), now)


def stages_of(reply: Any) -> list[StageFields]:
    assert isinstance(reply, StagesReply)
    return list(reply.stages)


def test_a_target_is_told_where_stages_are_and_these_let_it_use_them() -> None:
    mesh = mesh_with_stages()
    *told, last = asked(mesh, "nano-2", "nano-1/stage")
    # Stages hear of it before the target can come.
    assert [(send.peer, send.message) for send in told] == [
        (b"nano-2/stage", StageUserNotice(TARGETS_KEY)),
        (b"nano-1/stage", StageUserNotice(TARGETS_KEY)),
    ]
    assert (last.peer, stages_of(last.message)) == (
        b"asker",
        [
            StageFields("nano-2", "tcp://nano-2:7412", "nano-2" * 6),
            StageFields("nano-1/stage", "tcp://nano-1:7412", "nano-1" * 6),
        ],
    )


def test_only_the_key_of_a_target_is_told_of_stages() -> None:
    (send,) = asked(mesh_with_stages(), "nano-1", caller=Caller("x", frozenset({"client"})))
    assert "lacks the role target" in send.message.error
    assert not send.message.stages


def test_a_name_that_two_stages_have_or_none_is_no_place() -> None:
    mesh = mesh_with_stages()
    mesh.join(b"more", "stage", name="nano-1/more")
    mesh.hear(b"more", StageNotice("tcp://nano-1:7413", "m" * 40, ""))
    # It has joined, and has not said yet where it listens.
    mesh.join(b"new", "stage", name="nano-3/stage")
    (send,) = asked(mesh, "nano-1", "nano-3", "nano-4")
    assert [each.endpoint for each in stages_of(send.message)] == ["", "", ""]


def test_a_client_is_told_which_stage_a_target_waits_for() -> None:
    mesh = mesh_with_stages()
    mesh.join(CLIENT, "client")
    asked(mesh, "nano-1", "nano-9", now=1.0)
    reason = "the target waits for a part of its model: start stage nano-9"
    assert mesh.submit(1, 2.0).failure() == ("unavailable", reason)
    # Later it no longer waits, or is gone.
    code, reason = mesh.submit(2, 7.0).failure()
    assert (code, reason) == ("unavailable", "no target node is in the mesh: start one")


def test_a_target_that_asks_for_ever_more_names_is_not_remembered_for_ever() -> None:
    mesh = mesh_with_stages()
    mesh.join(CLIENT, "client")
    for number in range(100):
        asked(mesh, f"nano-{number}" + "x" * 50, now=1.0)
    _, reason = mesh.submit(1, 2.0).failure()
    assert "nano-99x" in reason
    assert reason.count("nano-") == 4


def test_stages_are_shown_with_what_they_run_and_can_be_dismissed() -> None:
    mesh = mesh_with_stages()
    mesh.join(b"target", "target", make_profile())
    mesh.hear(b"nano-1/stage", StageNotice("tcp://nano-1:7412", "k" * 40, "tiny-0-2.gguf"))
    shown = {node.name: (node.role, node.model, node.state) for node in mesh.status(1.0).nodes}
    assert shown["nano-1/stage"] == ("stage", "tiny-0-2.gguf", "ok")
    assert shown["nano-2/stage"] == ("stage", "", "ok")
    mesh.command("drain", "nano-1/stage", now=1.1)
    shown = {node.name: node.state for node in mesh.status(2.2).nodes}
    assert shown["nano-1/stage"] == "left" != shown["nano-2/stage"]


def told(shell: Shell) -> Any:
    """What the stage was told last of who may use it."""
    messages = [message for peer, message in shell.since(0) if peer == b"nano"]
    return [message for message in messages if isinstance(message, StageUserNotice)][-1]


async def test_a_key_that_is_revoked_loses_its_stages(tmp_path: Path) -> None:
    shell = Shell(authorized=lambda: AuthorizedNodes(tmp_path, ROLES))
    store = AuthorizedNodes(tmp_path, ROLES)
    for peer, roles in ((b"box", {"target"}), (b"nano", {"stage"})):
        shell.keys[peer] = new_key_pair().public
        store.add(Entry(shell.keys[peer], peer.decode(), frozenset(roles)))
    await shell.join(b"nano", "stage")
    notice = StageNotice("tcp://10.0.0.2:7412", shell.keys[b"nano"], "")
    await shell.hear(b"nano", notice)
    # A target asks before it joins.
    await shell.hear(b"box", StagesRequest(("nano",)))
    assert told(shell) == StageUserNotice(shell.keys[b"box"])
    await shell.join(b"box", "target", encode_struct(make_profile()))
    store.revoke("box")
    shell.tick(3)
    assert told(shell) == StageUserNotice("")
