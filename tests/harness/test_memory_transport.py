"""The in-process transport does what tests need of the real one."""

import pytest

from mesh.errors import BackpressureError, PeerGoneError
from tests.harness.memory_transport import MemoryHub


async def test_messages_come_in_order_and_answers_go_to_their_peer():
    hub = MemoryHub()
    hub.drop = lambda frames: frames == [b"bad"]
    server, client, other = hub.server(), hub.client(), hub.client()
    for number in (b"1", b"bad", b"2"):
        client.send([number])
    other.send([b"other"])
    (peer, one, _), (again, two, _), (stranger, *_) = [await server.recv() for _ in range(3)]
    assert (one, two, again) == ([b"1"], [b"2"], peer)
    server.send(peer, [b"one", b""])
    server.send(stranger, [b"two"])
    assert (await client.recv(), await other.recv()) == ([b"one", b""], [b"two"])
    client.close()
    assert await server.lost_peers() == [peer]
    for gone in (b"nobody", peer):
        with pytest.raises(PeerGoneError):
            server.send(gone, [b"x"])


async def test_restart_and_reconnect_give_new_peer_ids():
    hub = MemoryHub()
    client = hub.client()
    peers = set()
    for _ in range(2):
        with pytest.raises(BackpressureError):
            client.send([b"x"])
        server = hub.server()
        client.send([b"x"])
        peers.add((await server.recv()).peer)
        server.close()
        await client.lost()
    server = hub.server()
    hub.disconnect(client)
    assert await server.lost_peers() != []
    await client.lost()
    client.send([b"x"])
    peers.add((await server.recv()).peer)
    assert len(peers) == 3
