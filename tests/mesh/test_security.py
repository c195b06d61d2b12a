"""CURVE links: a peer that is not authorized is not heard, whatever fails."""

import asyncio
import contextlib
import socket
import sys

import pytest
import zmq

from airdraft.mesh.errors import InsecureEndpointError, KeysError, SecurityError
from airdraft.mesh.keys import ClientKeys
from airdraft.mesh.messages import MAX_MESSAGE_BYTES
from airdraft.mesh.security import ServerKeys, new_key_pair, server_options
from tests.mesh.zmq_pairs import send_when_room

TCP = "tcp://127.0.0.1:0"
SILENCE_S = 0.5


def client_keys(pair, own=None):
    return ClientKeys(own or new_key_pair(), pair.public)


def served(context, *known, pair=None, endpoint=TCP, **limits):
    """A server that lets in who has one of some keys, and its own pair."""
    pair = pair or new_key_pair()
    keys = ServerKeys(pair, {each.public for each in known}.__contains__)
    return context.bind(endpoint, keys, **limits), pair


async def hears_nothing(server):
    """Whether no message comes for a while."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SILENCE_S):
            await server.recv()
            return False
    return True


async def shout(client, frames):
    """Send as soon as there is a connection."""
    await client.writable()
    client.send(frames)


async def turned_away(client, frames):
    """Try to send until the server has closed a connection of this client."""
    shouting = asyncio.ensure_future(shout(client, frames))
    losing = asyncio.ensure_future(client.lost())
    await asyncio.sleep(0)
    # The first connection may have been closed before anybody looked.
    client.retry()
    await losing
    shouting.cancel()
    await asyncio.gather(shouting, return_exceptions=True)


async def test_the_largest_frame_passes_both_ways_and_a_larger_one_ends_its_connection(contexts):
    """A client could otherwise end a target by a text that makes a message of nearly this size."""
    own = new_key_pair()
    server, pair = served(contexts[0], own)
    client = contexts[1].connect(server.endpoint, client_keys(pair, own))
    largest = bytes(MAX_MESSAGE_BYTES)
    await shout(client, [largest])
    received = await server.recv()
    assert received.frames == [largest]
    server.send(received.peer, [largest])
    assert await client.recv() == [largest]
    losing = asyncio.ensure_future(server.lost_peers())
    client.send([largest + b"x"])
    assert await losing == [received.peer]


async def test_every_message_has_the_key_of_its_sender(contexts):
    known = [new_key_pair() for _ in range(3)]
    server, pair = served(contexts[0], *known)
    clients = [contexts[1].connect(server.endpoint, client_keys(pair, own)) for own in known]
    for number, client in enumerate(clients):
        await shout(client, [b"%d" % number, b"token ids"])
    found = [await server.recv() for _ in clients]
    assert {m.frames[0]: m.key for m in found} == {
        b"%d" % number: own.public for number, own in enumerate(known)
    }
    for message in found:
        server.send(message.peer, [message.key.encode()])
    for client, own in zip(clients, known, strict=True):
        assert await client.recv() == [own.public.encode()]


async def test_strangers_are_not_heard(contexts):
    known = new_key_pair()
    server, pair = served(contexts[0], known)
    # An unknown key, a wrong key of the server, and none.
    for keys in (client_keys(pair), client_keys(new_key_pair(), known), None):
        await turned_away(contexts[1].connect(server.endpoint, keys), [b"secret"])
    # Who is known still is, and nobody was heard before.
    friend = contexts[1].connect(server.endpoint, client_keys(pair, known))
    await shout(friend, [b"hello"])
    assert (await server.recv()).frames == [b"hello"]
    assert await hears_nothing(server)


async def test_a_key_is_let_in_as_soon_as_it_is_authorized(contexts):
    pair, own = new_key_pair(), new_key_pair()
    authorized: set[str] = set()
    server = contexts[0].bind(TCP, ServerKeys(pair, authorized.__contains__))
    client = contexts[1].connect(server.endpoint, client_keys(pair, own))
    await turned_away(client, [b"early"])
    authorized.add(own.public)
    # ZeroMQ by itself does not try again, once it was refused.
    client.retry()
    await shout(client, [b"now"])
    assert (await server.recv()).frames == [b"now"]


async def test_files_that_cannot_be_read_keep_everybody_out(contexts, caplog):
    def authenticate(_key):
        raise KeysError("authorized_nodes.toml is not valid TOML")

    pair = new_key_pair()
    server = contexts[0].bind(TCP, ServerKeys(pair, authenticate))
    for _ in range(3):
        await turned_away(contexts[1].connect(server.endpoint, client_keys(pair)), [b"x"])
    assert await hears_nothing(server)
    # Said once, not at every attempt.
    assert [r.message for r in caplog.records if r.levelname == "ERROR"] == [
        "every key is refused: authorized_nodes.toml is not valid TOML"
    ]


async def test_the_handlers_death_ends_the_server_and_lets_nobody_in(contexts):
    pair, known = new_key_pair(), new_key_pair()
    is_broken = False

    def authenticate(key):
        if is_broken:
            raise RuntimeError("disk on fire")
        return key == known.public

    server = contexts[0].bind(TCP, ServerKeys(pair, authenticate))
    friend = contexts[1].connect(server.endpoint, client_keys(pair, known))
    await friend.writable()
    is_broken = True
    contexts[1].connect(server.endpoint, client_keys(pair))
    with pytest.raises(SecurityError, match="handler for handshakes ended: RuntimeError: disk"):
        await server.recv()
    # Not the next message of a friend either: the process is to end.
    friend.send([b"y"])
    for _ in range(2):
        with pytest.raises(SecurityError):
            await server.recv()
    with pytest.raises(SecurityError):
        server.send(b"peer", [b"x"])


def test_a_socket_without_a_handler_refuses_everybody():
    """The options alone, in a context without a handler: what keeps a race at the start shut."""
    pair, known = new_key_pair(), new_key_pair()
    with zmq.Context() as context:
        server = context.socket(zmq.ROUTER)
        for option, value in server_options(ServerKeys(pair, {known.public}.__contains__)).items():
            server.setsockopt(option, value)
        port = server.bind_to_random_port("tcp://127.0.0.1")
        client = context.socket(zmq.DEALER)
        client.curve_publickey = known.public.encode()
        client.curve_secretkey = known.secret.encode()
        client.curve_serverkey = pair.public.encode()
        client.connect(f"tcp://127.0.0.1:{port}")
        client.send(b"x")
        assert server.poll(500) == 0
        server.close(linger=0)
        client.close(linger=0)


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:0", "tcp://*:0", "tcp://[::]:0"])
async def test_other_machines_are_only_served_with_keys_by_one_handler(contexts, endpoint):
    with pytest.raises(InsecureEndpointError, match="airdraft keys init"):
        contexts[0].bind(endpoint)
    keys = ServerKeys(new_key_pair(), lambda _key: True)
    assert contexts[0].bind(endpoint, keys).endpoint.startswith("tcp://")
    with pytest.raises(SecurityError, match="only one endpoint with keys"):
        contexts[0].bind(TCP, keys)
    with pytest.raises(InsecureEndpointError):
        contexts[1].connect("tcp://192.0.2.1:7411")
    contexts[1].connect("tcp://192.0.2.1:7411", client_keys(new_key_pair()))


async def test_garbage_on_the_port_keeps_nobody_waiting(contexts, monkeypatch):
    """Greetings of other protocols, torn ones, silent ones (CVE-2020-15166 and its kin)."""
    # Who says nothing stays: whoever had to wait for the end of that would wait for ever.
    set_option = zmq.Socket.setsockopt

    def without_limit(socket, option, value):
        set_option(socket, option, 0 if option == zmq.HANDSHAKE_IVL else value)

    monkeypatch.setattr(zmq.Socket, "setsockopt", without_limit)
    known = new_key_pair()
    server, pair = served(contexts[0], known)
    port = int(server.endpoint.rpartition(":")[2])
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00"
    openings = [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        greeting,
        greeting + b"NULL".ljust(20, b"\0") + bytes(32) + b"\x04\x05READY",
        greeting + b"CURVE".ljust(20, b"\0") + bytes(32) + b"\x04\xc8" + b"\x05HELLO" + bytes(194),
        b"\xff" * 4096,
    ]
    with contextlib.ExitStack() as sockets:
        for number in range(70):
            garbage = sockets.enter_context(socket.create_connection(("127.0.0.1", port)))
            garbage.sendall(openings[number % len(openings)])
        friend = contexts[1].connect(server.endpoint, client_keys(pair, known))
        await shout(friend, [b"hello"])
        message = await server.recv()
        assert (message.frames, message.key) == ([b"hello"], known.public)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a connection received")
async def test_who_sends_far_more_than_is_read_is_cut_off_and_comes_back_no_more(contexts):
    bad, good = new_key_pair(), new_key_pair()
    server, pair = served(contexts[0], bad, good, most_unread_bytes=1 << 20)
    async with asyncio.timeout(60.0):
        flood = contexts[1].connect(server.endpoint, client_keys(pair, bad))
        await shout(flood, [b"hello"])
        assert (await server.recv()).frames == [b"hello"]
        # The kernel holds some megabytes of it, and ZeroMQ the rest.
        for _ in range(300):
            await send_when_room(flood.send, [b"x" * 65_536])
        flooding = (await server.lost_peers())[0]
        other = contexts[1].connect(server.endpoint, client_keys(pair, good))
        await shout(other, [b"I am heard"])
        while (received := await server.recv()).frames != [b"I am heard"]:
            assert received.peer == flooding
        await turned_away(contexts[1].connect(server.endpoint, client_keys(pair, bad)), [b"?"])
