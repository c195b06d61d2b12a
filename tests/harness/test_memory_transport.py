"""The in-process transport keeps the contract of the real one."""

import asyncio

import pytest

from mesh.errors import BackpressureError, LocalProtocolError, PeerGoneError
from tests.harness.memory_transport import MemoryHub


async def test_order_under_backpressure_and_answers_by_peer():
    hub = MemoryHub(max_messages=4)
    server, client, other = hub.server(), hub.client(), hub.client()
    other.send([b"other"])
    (stranger, *_) = await server.recv()

    async def blast():
        for i in range(200):
            await client.writable()
            client.send([b"%d" % i])

    async with asyncio.TaskGroup() as group:
        group.create_task(blast())
        received = [await server.recv() for _ in range(200)]
    assert [int(frames[0]) for _, frames, _ in received] == list(range(200))
    (peer,) = {peer for peer, *_ in received}
    server.send(peer, [b"one", b""])
    server.send(stranger, [b"two"])
    assert (await client.recv(), await other.recv()) == ([b"one", b""], [b"two"])


async def test_full_queues_and_unknown_peers():
    hub = MemoryHub(max_messages=1)
    server, client = hub.server(), hub.client()
    client.send([b"x"])
    with pytest.raises(BackpressureError):
        client.send([b"x"])
    peer, *_ = await server.recv()
    server.send(peer, [b"x"])
    with pytest.raises(BackpressureError) as caught:
        server.send(peer, [b"x"])
    assert caught.value.peer == peer
    client.close()
    for gone in (b"nobody", peer):
        with pytest.raises(PeerGoneError):
            server.send(gone, [b"x"])


async def test_restart_and_reconnect_give_new_peer_ids():
    hub = MemoryHub()
    client = hub.client()
    waiting = asyncio.ensure_future(client.writable())
    peers = set()
    for _ in range(2):
        with pytest.raises(BackpressureError):
            client.send([b"x"])
        server = hub.server()
        await waiting
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


async def test_messages_that_are_dropped_or_malformed_are_not_received():
    hub = MemoryHub(drop=lambda frames: frames == [b"bad"])
    server, client = hub.server(), hub.client()
    for frames in ([b"bad"], [b"x"] * 4, [], [b"good"]):
        client.send(frames)
    assert (await server.recv()).frames == [b"good"]


async def test_misuse_is_loud_and_a_cancelled_receive_loses_nothing():
    hub = MemoryHub()
    server, client = hub.server(), hub.client()
    with pytest.raises(LocalProtocolError):
        hub.server()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await server.recv()
    client.send([b"x"])
    assert (await server.recv()).frames == [b"x"]
    reader = asyncio.ensure_future(server.recv())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(LocalProtocolError, match="two tasks"):
        await server.recv()
    server.close()
    client.close()
    for broken in (reader, server.lost_peers(), client.lost()):
        with pytest.raises(LocalProtocolError):
            await broken
    with pytest.raises(LocalProtocolError):
        server.send(b"p", [b"x"])
    with pytest.raises(LocalProtocolError):
        client.send([b"x"])
