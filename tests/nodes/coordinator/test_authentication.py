"""A coordinator with keys: what a revoked one, an invited one and one of garbage can still do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mesh import credits
from mesh.authorized import AuthorizedNodes, Entry
from mesh.codec import decode, encode
from mesh.keys import AUTHORIZED_FILE
from mesh.messages import (
    PROTOCOL_VERSION,
    EnrolReply,
    EnrolRequest,
    Hello,
    Ping,
    Pong,
    Refuse,
    Welcome,
)
from mesh.security import new_key_pair
from nodes.coordinator.members.rate_limits import MAX_OFFENCES
from nodes.coordinator.service import Coordinator
from nodes.messages import NodesReply, NodesRequest
from nodes.messages.access import ROLES
from tests.harness.memory_transport import MemoryClient, MemoryHub, MemoryServer
from tests.nodes.coordinator.examples import MESSAGES

CLIENT = frozenset({"client"})
Eventually = Callable[..., "asyncio.Future[None]"]


@dataclass
class Peer:
    """One connection, and the membership it has."""

    transport: MemoryClient
    server: MemoryServer
    welcome: Welcome | None = None

    def send(self, message: Any) -> None:
        cluster = self.welcome.cluster if self.welcome else ""
        epoch = self.welcome.epoch if self.welcome else 0
        self.transport.send(encode(message, cluster=cluster, epoch=epoch))

    async def next(self) -> Any:
        """The next message that is no heartbeat."""
        while True:
            message = decode(await self.transport.recv()).message
            if not isinstance(message, Ping | Pong):
                return message

    async def join(self, name: str = "c", role: str = "client") -> Any:
        self.send(Hello(name, role, id(self) % 2**60, PROTOCOL_VERSION, b""))
        answer = await self.next()
        self.welcome = answer if isinstance(answer, Welcome) else None
        return answer

    async def is_heard(self) -> bool:
        """Whether a request is answered: at once, when the coordinator has read it."""
        self.send(NodesRequest(1))
        num_sent = self.server.messages_received + len(self.server._inbox.items)
        while self.server.messages_received < num_sent:  # noqa: ASYNC110
            await asyncio.sleep(0)
        inbox = self.transport._inbox.items
        answers = [decode(inbox.popleft().frames).message for _ in range(len(inbox))]
        return any(isinstance(answer, NodesReply) for answer in answers)


class Scene:
    def __init__(self, directory: Path) -> None:
        self.hub = MemoryHub()
        self.server = self.hub.server()
        self.store = AuthorizedNodes(directory, ROLES)
        self.path = directory / AUTHORIZED_FILE
        self.coordinator = Coordinator(
            self.server, authorized=lambda: AuthorizedNodes(directory, ROLES)
        )

    def peer(self, key: str) -> Peer:
        return Peer(self.hub.client(key), self.server)

    def known(self, name: str, roles: frozenset[str] = CLIENT) -> Peer:
        key = new_key_pair().public
        self.store.add(Entry(key, name, roles))
        return self.peer(key)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(tmp_path)
    serving = asyncio.create_task(scene.coordinator.run())
    yield scene
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_a_revoked_key_is_not_heard_from_the_next_message_on(scene: Scene) -> None:
    first, second = scene.known("first"), scene.known("second")
    for peer in (first, second):
        assert isinstance(await peer.join(), Welcome)
        assert await peer.is_heard()
    scene.store.revoke("first")
    assert not await first.is_heard()
    assert await second.is_heard()
    assert len(scene.coordinator.state.peers()) == 1
    # Nor as a new member.
    first.welcome = None
    first.send(Hello("again", "client", 3, PROTOCOL_VERSION, b""))
    assert await second.is_heard()
    assert len(scene.coordinator.state.peers()) == 1


async def test_a_revoked_key_that_is_silent_hears_nothing_either(
    scene: Scene, eventually: Eventually
) -> None:
    peer = scene.known("first")
    await peer.join()
    scene.store.revoke("first")
    await eventually(lambda: not scene.coordinator.state.peers())


async def test_a_role_can_be_taken_away(scene: Scene, eventually: Eventually) -> None:
    peer = scene.known("first", frozenset({"client", "draft"}))
    await peer.join()
    (entry,) = scene.store.revoke("first")
    scene.store.add(Entry(entry.key, entry.name, frozenset({"draft"})))
    assert not await peer.is_heard()
    await eventually(lambda: not scene.coordinator.state.peers())


async def test_a_list_that_cannot_be_read_authorizes_nobody(scene: Scene) -> None:
    peer = scene.known("first")
    await peer.join()
    good = scene.path.read_text()
    scene.path.write_text("[[")
    assert not await peer.is_heard()
    scene.path.write_text(good)
    assert isinstance(await peer.join(), Welcome)
    assert await peer.is_heard()


async def test_an_invited_key_can_bring_another_once_and_nothing_else(scene: Scene) -> None:
    invited, own = new_key_pair().public, new_key_pair().public
    scene.store.invite(Entry(invited, "", CLIENT, 2**40))
    guest = scene.peer(invited)
    guest.send(Hello("c", "client", 1, PROTOCOL_VERSION, b""))
    guest.send(NodesRequest(1))
    guest.send(EnrolRequest(own, "nano"))
    assert await guest.next() == EnrolReply("", "nano", ("client",))
    assert scene.coordinator.state.peers() == []
    guest.send(EnrolRequest(new_key_pair().public, "second"))
    member = scene.peer(own)
    assert isinstance(await member.join(), Welcome)
    assert [entry.name for entry in scene.store.nodes().values()] == ["nano"]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
async def test_of_an_invited_key_nothing_but_its_new_key_is_heard(
    scene: Scene, message: Any
) -> None:
    invited = new_key_pair().public
    scene.store.invite(Entry(invited, "", CLIENT, 2**40))
    guest, friend = scene.peer(invited), scene.known("friend")
    await friend.join()
    guest.send(message)
    assert await friend.is_heard()
    assert len(scene.coordinator.state.peers()) == 1
    is_enrolment = isinstance(message, EnrolRequest)
    assert scene.coordinator.num_dropped == (0 if is_enrolment else 1)


async def test_a_bad_name_or_key_is_told_and_can_be_mended(scene: Scene) -> None:
    invited = new_key_pair().public
    scene.store.invite(Entry(invited, "", CLIENT, 2**40))
    guest = scene.peer(invited)
    for key, name in (("short", "nano"), (new_key_pair().public, "a b")):
        guest.send(EnrolRequest(key, name))
        reply = await guest.next()
        assert isinstance(reply, EnrolReply)
        assert reply.error
        assert scene.store.nodes() == {}
    guest.send(EnrolRequest(new_key_pair().public, "nano"))
    assert (await guest.next()).error == ""


async def test_a_member_can_change_its_key(scene: Scene) -> None:
    peer = scene.known("first")
    new = new_key_pair().public
    peer.send(EnrolRequest(new, "ignored"))
    assert await peer.next() == EnrolReply("", "first", ("client",))
    assert set(scene.store.nodes()) == {new}
    assert not await peer.is_heard()


async def test_a_change_of_keys_whose_answer_was_lost_can_be_asked_for_again(scene: Scene) -> None:
    peer = scene.known("first")
    new = new_key_pair().public
    peer.send(EnrolRequest(new, ""))
    await peer.next()
    again = scene.peer(new)
    again.send(EnrolRequest(new, ""))
    assert await again.next() == EnrolReply("", "first", ("client",))


async def test_one_key_has_some_members_and_not_all_there_may_be(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodes.coordinator.members.authentication._MAX_MEMBERS_OF_KEY", 3)
    first = scene.known("many")
    peers = [first, *(scene.peer(first.transport.key) for _ in range(3))]
    answers = [await peer.join(f"c{number}") for number, peer in enumerate(peers)]
    assert [type(answer) for answer in answers] == [Welcome, Welcome, Welcome, Refuse]
    assert isinstance(await scene.known("other").join(), Welcome)


async def test_keys_of_connections_that_are_gone_are_forgotten(
    scene: Scene, eventually: Eventually
) -> None:
    first = scene.known("many")
    for _ in range(300):
        scene.peer(first.transport.key).send(Ping(1, 1))
    await eventually(lambda: len(scene.coordinator._authentication._keys) < 100)


async def test_garbage_is_borne_for_a_while_and_then_the_peer_is_dropped(scene: Scene) -> None:
    bad, good = scene.known("bad"), scene.known("good")
    for peer in (bad, good):
        await peer.join()
    for number in range(MAX_OFFENCES - 1):
        bad.transport.send([b"\x01garbage%d" % number])
    assert await bad.is_heard()
    # A well-formed message that its role may not send counts as much.
    bad.send(EnrolReply("", "x", ()))
    assert not await bad.is_heard()
    assert await good.is_heard()
    assert len(scene.coordinator.state.peers()) == 1


async def test_who_does_not_read_is_sent_a_window_and_then_gone(
    scene: Scene, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each Ping is answered, and none of the answers is said to have been read."""
    window = 100
    monkeypatch.setattr(credits, "WINDOW_MESSAGES", window)
    stuck, good = scene.known("stuck"), scene.known("good")
    for peer in (stuck, good):
        await peer.join()
    for number in range(window + 10):
        stuck.send(Ping(number, 0))
    await eventually(lambda: len(scene.coordinator.state.peers()) == 1)
    assert len(stuck.transport._inbox.items) <= window
    assert await good.is_heard()


async def test_an_unknown_key_changes_nothing(scene: Scene) -> None:
    """Only a race could bring it past the handshake: revoked between that and its message."""
    stranger = scene.peer(new_key_pair().public)
    for message in (Hello("c", "client", 1, PROTOCOL_VERSION, b""), EnrolRequest("k" * 40, "x")):
        stranger.send(message)
    friend = scene.known("friend")
    await friend.join()
    assert await friend.is_heard()
    assert len(scene.coordinator.state.peers()) == 1
    assert scene.coordinator.num_dropped == 2
