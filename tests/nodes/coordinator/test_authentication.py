"""What a coordinator with keys lets a revoked key, an invited one and a sender of garbage do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airdraft.mesh.authorized import AuthorizedNodes, Entry
from airdraft.mesh.codec import encode_struct
from airdraft.mesh.keys import AUTHORIZED_FILE, INVITATIONS_FILE
from airdraft.mesh.messages import Bye, EnrolReply, EnrolRequest, Refuse
from airdraft.mesh.security import new_key_pair
from airdraft.nodes.coordinator.members.authentication import Authentication
from airdraft.nodes.coordinator.members.rate_limits import MAX_OFFENCES
from airdraft.nodes.messages import NodesReply, NodesRequest, ProbeRequest
from airdraft.nodes.messages.access import ROLES
from tests.nodes.builders import make_profile
from tests.nodes.coordinator.examples import MESSAGES
from tests.nodes.coordinator.shell import Shell, is_welcome

CLIENT = frozenset({"client"})
FIRST, SECOND, GUEST = b"first", b"second", b"guest"


class Scene(Shell):
    """A coordinator that has the keys of two members, of which none has joined yet, and has
    invited a guest."""

    def __init__(self, directory: Path) -> None:
        super().__init__(authorized=lambda: AuthorizedNodes(directory, ROLES))
        self.store = AuthorizedNodes(directory, ROLES)
        self.path = directory / AUTHORIZED_FILE
        self.keys = {peer: new_key_pair().public for peer in (FIRST, SECOND, GUEST)}
        for peer in (FIRST, SECOND):
            self.store.add(Entry(self.keys[peer], peer.decode(), CLIENT))
        self.store.invite(Entry(self.keys[GUEST], "", CLIENT, 2**40))

    def names(self) -> list[str]:
        return [entry.name for entry in self.store.nodes().values()]

    async def is_heard(self, peer: bytes) -> bool:
        return any(isinstance(m, NodesReply) for m in await self.hear(peer, NodesRequest(1)))


@pytest.fixture
async def scene(tmp_path: Path) -> Scene:
    scene = Scene(tmp_path)
    for peer in (FIRST, SECOND):
        assert is_welcome(await scene.join(peer))
        assert await scene.is_heard(peer)
    return scene


@pytest.mark.parametrize("is_silent", [False, True])
@pytest.mark.parametrize("roles", [set(), {"draft"}], ids=["revoked", "of another role"])
async def test_a_key_that_loses_its_role_is_not_heard_from_the_next_message_on(
    scene: Scene, roles: set[str], is_silent: bool
) -> None:
    (entry,) = scene.store.revoke("first")
    if roles:
        scene.store.add(Entry(entry.key, entry.name, frozenset(roles)))
    if is_silent:
        scene.tick(3)
        assert scene.peers == [SECOND]
    assert not await scene.is_heard(FIRST)
    assert await scene.is_heard(SECOND)
    # Nor as a new member.
    assert not is_welcome(await scene.join(FIRST))
    scene.tick(3)
    assert scene.peers == [SECOND]


async def test_what_a_revoked_key_sends_is_not_decoded(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.store.revoke("first")
    for peer in (FIRST, SECOND):
        await scene.hear_frames(peer, [b"malformed"])
    assert FIRST.hex() not in caplog.text
    assert SECOND.hex() in caplog.text


@pytest.mark.parametrize("text", ["", "[["])
async def test_a_list_that_is_being_written_authorizes_nobody_and_ends_no_membership(
    scene: Scene, text: str
) -> None:
    good = scene.path.read_text()
    for peer in (FIRST, SECOND):
        scene.path.write_text(text)
        assert not await scene.is_heard(peer)
        scene.tick()
        scene.path.write_text(good)
        scene.tick()
    assert scene.peers == [FIRST, SECOND]
    assert await scene.is_heard(FIRST)
    scene.path.write_text(text)
    scene.tick(3)
    assert scene.peers == []


async def test_an_invited_key_can_bring_another_once_and_nothing_else(scene: Scene) -> None:
    own = new_key_pair().public
    assert await scene.join(GUEST) == await scene.hear(GUEST, NodesRequest(1)) == []
    # A bad key or name is told and can be mended.
    for key, name in (("short", "nano"), (own, "a b")):
        (reply,) = await scene.hear(GUEST, EnrolRequest(key, name))
        assert reply.error
        assert scene.names() == ["first", "second"]
    enrolled = EnrolReply("", "nano", ("client",))
    assert await scene.hear(GUEST, EnrolRequest(own, "nano")) == [enrolled]
    await scene.hear(GUEST, EnrolRequest(new_key_pair().public, "third"))
    scene.keys[b"own"] = own
    assert is_welcome(await scene.join(b"own"))
    assert scene.names() == ["first", "second", "nano"]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
async def test_an_invited_key_may_only_enrol_and_an_unknown_key_is_not_heard(
    scene: Scene, message: Any
) -> None:
    """An unknown key passes the handshake only if it is revoked at that very moment."""
    scene.keys[b"stranger"] = new_key_pair().public
    await scene.hear(GUEST, message)
    assert await scene.hear(b"stranger", message) == []
    assert scene.peers == [FIRST, SECOND]
    assert scene.coordinator.state.reporting.num_dropped == (
        1 if isinstance(message, EnrolRequest) else 2
    )


async def test_a_member_can_change_its_key_and_ask_again_where_the_answer_was_lost(
    scene: Scene,
) -> None:
    new = new_key_pair().public
    scene.keys[b"again"] = new
    for peer in (FIRST, b"again"):
        told = await scene.hear(peer, EnrolRequest(new, "ignored"))
        assert told == [EnrolReply("", "first", ("client",))]
        assert set(scene.store.nodes()) == {new, scene.keys[SECOND]}
    assert not await scene.is_heard(FIRST)


async def test_one_key_has_some_members_and_not_all_there_may_be(scene: Scene) -> None:
    told: list[Any] = []
    while not any(isinstance(message, Refuse) for message in told):
        # The number of joins a second is limited for each key.
        scene.now += 1.0
        peer = b"first %d" % scene.now
        scene.keys[peer] = scene.keys[FIRST]
        told = await scene.join(peer)
    assert told == [Refuse("too many members use this key")]
    assert len(scene.peers) > 100
    scene.keys[b"other"] = scene.keys[SECOND]
    assert is_welcome(await scene.join(b"other"))


async def test_a_target_does_not_wait_for_the_clients_of_its_key_to_come_back(scene: Scene) -> None:
    scene.store.add(Entry(new_key_pair().public, "machine", CLIENT | {"target"}))
    key = next(e.key for e in scene.store.nodes().values() if e.name == "machine")
    peers = [b"machine %d" % number for number in range(100)]
    scene.keys |= dict.fromkeys([*peers, b"target"], key)
    told = [await scene.join(peer) for peer in peers]
    assert told[-1] == []
    (welcome, probe) = await scene.join(b"target", "target", encode_struct(make_profile()))
    assert is_welcome([welcome])
    assert isinstance(probe, ProbeRequest)


async def test_an_invitation_that_expires_is_removed_for_good(
    tmp_path: Path, eventually: Callable[..., Awaitable[None]]
) -> None:
    clock = SimpleNamespace(now=1000.0)
    store = AuthorizedNodes(tmp_path, ROLES, lambda: clock.now)
    store.invite(Entry(new_key_pair().public, "nano", CLIENT, 1060))
    expiring = asyncio.create_task(Authentication(lambda: store).keep_expiring())
    clock.now = 1060.0
    await eventually(lambda: "nano" not in (tmp_path / INVITATIONS_FILE).read_text())
    expiring.cancel()
    clock.now = 1000.0
    assert store.invitations() == {}


def test_keys_of_connections_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    key = new_key_pair().public
    AuthorizedNodes(tmp_path, ROLES).add(Entry(key, "many", CLIENT))
    authentication = Authentication(lambda: AuthorizedNodes(tmp_path, ROLES))
    peers = [b"%d" % number for number in range(300)]
    for peer in peers:
        assert authentication.caller(peer, key) is not None
    assert authentication.is_crowded(key, peers)
    authentication.revoked({})
    assert not authentication.is_crowded(key, peers)


async def test_garbage_is_borne_for_a_while_and_then_the_peer_is_dropped(scene: Scene) -> None:
    for number in range(MAX_OFFENCES - 1):
        await scene.hear_frames(FIRST, [b"\x01garbage%d" % number])
    assert await scene.is_heard(FIRST)
    # A well-formed message that its role may not send counts as much.
    await scene.hear(FIRST, EnrolReply("", "x", ()))
    assert not await scene.is_heard(FIRST)
    assert await scene.is_heard(SECOND)
    assert scene.peers == [SECOND]


async def test_without_keys_nobody_is_enrolled() -> None:
    (reply,) = await Shell().hear(b"anybody", EnrolRequest("k" * 40, "x"))
    assert reply == EnrolReply("this coordinator uses no keys", "", ())


async def test_all_members_are_told_that_the_coordinator_stops() -> None:
    shell = Shell()
    for newcomer in (b"1", b"2"):
        await shell.join(newcomer)
    before = len(shell.frames)
    shell.coordinator.say_bye()
    assert shell.since(before) == [(peer, Bye("coordinator stops")) for peer in shell.peers]
