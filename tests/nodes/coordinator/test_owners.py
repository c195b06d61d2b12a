"""Targets hear whose texts they may keep."""

from __future__ import annotations

from pathlib import Path

from airdraft.mesh.authorized import AuthorizedNodes, Entry
from airdraft.mesh.codec import encode_struct
from airdraft.mesh.security import new_key_pair
from airdraft.nodes.messages import MOST_OWNERS, OwnersNotice
from airdraft.nodes.messages.access import ROLES
from tests.nodes.builders import make_profile
from tests.nodes.coordinator.script import CLIENT, TARGET, Mesh
from tests.nodes.coordinator.shell import Shell


def told(shell: Shell, peer: bytes, first: int = 0) -> list[OwnersNotice]:
    return [m for other, m in shell.since(first) if other == peer and isinstance(m, OwnersNotice)]


async def test_targets_hear_of_authorized_keys_when_they_join_and_at_each_change(
    tmp_path: Path,
) -> None:
    shell = Shell(authorized=lambda: AuthorizedNodes(tmp_path, ROLES))
    store = AuthorizedNodes(tmp_path, ROLES)
    for peer, role in ((b"box", "target"), (b"late", "target"), (b"me", "client")):
        shell.keys[peer] = new_key_pair().public
        store.add(Entry(shell.keys[peer], peer.decode(), frozenset({role})))
    await shell.join(b"box", "target", encode_struct(make_profile()))
    await shell.join(b"me")
    shell.tick(3)
    assert told(shell, b"box") == [OwnersNotice(("box", "late", "me"))]
    store.revoke("me")
    shell.tick(3)
    assert told(shell, b"box")[1:] == [OwnersNotice(("box", "late"))]
    # One that was away learns it when it joins.
    await shell.join(b"late", "target", encode_struct(make_profile()))
    assert told(shell, b"late") == [OwnersNotice(("box", "late"))]
    assert told(shell, b"me") == []


def test_nothing_is_told_where_keys_are_not_known() -> None:
    mesh = Mesh()
    mesh.join(b"box", "target", profile=make_profile())
    state = mesh.state
    assert state.keys_known(()) == []
    assert len(state.keys_known(("me",))) == 1
    # A file that cannot be read authorizes nobody, but that is no reason to delete texts.
    assert state.keys_known(()) == []
    assert state.keys_known(tuple(map(str, range(MOST_OWNERS + 1)))) == []


def test_on_the_private_mesh_of_a_user_the_gateway_is_the_same_after_a_restart() -> None:
    found = list[set[str]]()
    for is_private in (True, False):
        owners = set()
        for peer in (b"first", b"second"):
            mesh = Mesh(is_private=is_private)
            mesh.join(TARGET, "target", make_profile())
            mesh.join(peer, "gateway")
            (opened,) = mesh.submit(peer=peer, user="key/ann").openings()
            owners.add(opened.owner)
        found.append(owners)
    assert [len(owners) for owners in found] == [1, 2]
    # Other programs are told apart by their connections all the same.
    mesh = Mesh(is_private=True)
    mesh.join(TARGET, "target", make_profile())
    mesh.join(CLIENT, "client")
    (opened,) = mesh.submit().openings()
    assert opened.owner == CLIENT.hex()
