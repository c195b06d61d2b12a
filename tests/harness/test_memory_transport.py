"""The in-process transport keeps the contract of the real one."""

import asyncio

import pytest

from mesh.errors import BackpressureError, LocalProtocolError, PeerGoneError
from tests.harness.memory_transport import MemoryHub


async def test_echo_and_counters():
    hub = MemoryHub()
    server, client = hub.server(), hub.client()
    await client.writable()
    client.send([b"one", b""])
    peer, frames, _ = await server.recv()
    server.send(peer, frames)
    assert await client.recv() == [b"one", b""]
    assert (client.messages_sent, client.bytes_sent) == (1, 3)
    assert (client.messages_received, client.bytes_received) == (1, 3)
    assert (server.messages_sent, server.messages_received) == (1, 1)
    assert server.endpoint.startswith("memory://")


async def test_clients_have_their_own_peer_ids():
    hub = MemoryHub()
    server, clients = hub.server(), [hub.client(), hub.client()]
    peers = []
    for client in clients:
        client.send([b"x"])
        peers.append((await server.recv())[0])
    for client, peer in zip(clients, peers, strict=True):
        server.send(peer, [peer])
        assert await client.recv() == [peer]


async def test_order_under_backpressure():
    hub = MemoryHub(max_messages=4)
    server, client = hub.server(), hub.client()

    async def blast():
        for i in range(200):
            await client.writable()
            client.send([b"%d" % i])

    async with asyncio.TaskGroup() as group:
        group.create_task(blast())
        assert [int((await server.recv())[1][0]) for _ in range(200)] == list(range(200))


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
    with pytest.raises(PeerGoneError):
        server.send(b"nobody", [b"x"])
    client.close()
    with pytest.raises(PeerGoneError):
        server.send(peer, [b"x"])


async def test_restart_and_reconnect_give_new_peer_ids():
    hub = MemoryHub()
    client = hub.client()
    with pytest.raises(BackpressureError):
        client.send([b"x"])
    peers = set()
    for _ in range(2):
        server = hub.server()
        with pytest.raises(LocalProtocolError):
            hub.server()
        await client.writable()
        client.send([b"x"])
        peers.add((await server.recv())[0])
        server.close()
        with pytest.raises(BackpressureError):
            client.send([b"x"])
    server = hub.server()
    hub.disconnect(client)
    client.send([b"x"])
    peers.add((await server.recv())[0])
    assert len(peers) == 3


async def test_writable_waits_for_a_server():
    hub = MemoryHub()
    client = hub.client()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(client.writable())
        await asyncio.sleep(0)
        assert not waiting.done()
        hub.server()


async def test_dropped_messages_are_lost_silently():
    hub = MemoryHub(drop=lambda frames: frames == [b"bad"])
    server, client = hub.server(), hub.client()
    client.send([b"bad"])
    client.send([b"good"])
    assert (await server.recv())[1] == [b"good"]
    assert client.messages_sent == 2


async def test_frame_count_is_checked():
    hub = MemoryHub()
    server, client = hub.server(), hub.client()
    client.send([b"x"] * 4)
    client.send([])
    client.send([b"good"])
    assert (await server.recv())[1] == [b"good"]
    assert server.messages_rejected == 2


async def test_cancelled_receives_lose_nothing():
    hub = MemoryHub()
    server, client = hub.server(), hub.client()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await server.recv()
    client.send([b"x"])
    assert (await server.recv())[1] == [b"x"]


async def test_both_sides_are_told_of_connections_that_close():
    hub = MemoryHub()
    server, client, other = hub.server(), hub.client(), hub.client()
    for sender in (client, other):
        sender.send([b"x"])
    peers = [(await server.recv()).peer for _ in range(2)]
    other.close()
    assert await server.lost_peers() == [peers[1]]
    hub.disconnect(client)
    assert await server.lost_peers() == [peers[0]]
    await client.lost()
    waiting = asyncio.ensure_future(client.lost())
    await asyncio.sleep(0)
    assert not waiting.done()
    server.close()
    await waiting
    with pytest.raises(LocalProtocolError):
        await server.lost_peers()
    with pytest.raises(LocalProtocolError):
        await other.lost()


async def test_misuse_is_loud():
    hub = MemoryHub()
    server, client = hub.server(), hub.client()
    reader = asyncio.ensure_future(server.recv())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(LocalProtocolError, match="two tasks"):
        await server.recv()
    server.close()
    with pytest.raises(LocalProtocolError):
        await reader
    with pytest.raises(LocalProtocolError):
        server.send(b"p", [b"x"])
    client.close()
    with pytest.raises(LocalProtocolError):
        client.send([b"x"])
