"""ZeroMQ sockets that close, and peers and servers that go: told, with a limit, nothing left."""

import asyncio
import contextlib
import os
import time

import pytest

from mesh.errors import BackpressureError, LocalProtocolError, PeerGoneError
from mesh.zmq_transport import ZmqContext
from tests.mesh.zmq_pairs import is_gone, joined


async def test_unknown_and_departed_peers_are_gone(context, endpoint, eventually):
    server, client, peer = await joined(context, endpoint)
    with pytest.raises(PeerGoneError) as caught:
        server.send(b"nobody", [b"x"])
    assert caught.value.peer == b"nobody"
    client.close()
    await eventually(lambda: is_gone(server, peer))


async def test_client_finds_a_restarted_server_as_a_new_peer(context, tmp_path):
    endpoint = f"ipc://{tmp_path}/mesh.sock"
    server, client, peer = await joined(context, endpoint)
    server.close()
    server = context.bind(endpoint)
    while True:
        await client.writable()
        with contextlib.suppress(BackpressureError):
            client.send([b"again"])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                new_peer, frames, _ = await server.recv()
                break
    assert frames == [b"again"]
    with pytest.raises(PeerGoneError):
        server.send(peer, [b"x"])
    server.send(new_peer, [b"y"])
    assert await client.recv() == [b"y"]


async def test_closing_under_a_reader_is_loud(context, endpoint):
    server, client, _ = await joined(context, endpoint)
    readers = [asyncio.ensure_future(server.recv()), asyncio.ensure_future(client.recv())]
    await asyncio.sleep(0)
    server.close()
    client.close()
    results = await asyncio.gather(*readers, return_exceptions=True)
    assert [type(r) for r in results] == [LocalProtocolError, LocalProtocolError]
    with pytest.raises(LocalProtocolError):
        client.send([b"x"])
    with pytest.raises(LocalProtocolError):
        await server.recv()
    server.close()


async def test_last_words_arrive_though_the_context_closes(tmp_path):
    endpoint = f"ipc://{tmp_path}/mesh.sock"
    with ZmqContext() as at_server:
        server = at_server.bind(endpoint)
        with ZmqContext() as at_client:
            client = at_client.connect(endpoint)
            await client.writable()
            client.send([b"bye"])
        assert (await server.recv())[1] == [b"bye"]


async def test_closing_with_an_unread_queue_has_a_limit(tmp_path):
    """With ZMTP heartbeats this aborts the whole process, in the half second of lingering."""
    with ZmqContext() as at_client:
        with ZmqContext() as at_server:
            endpoint = f"ipc://{tmp_path}/mesh.sock"
            server, _client, peer = await joined(at_server, endpoint)
            deaf = at_client.connect(endpoint)
            await deaf.writable()
            deaf.send([b"hello"])
            peer, *_ = await server.recv()
            idle_rounds = 0
            while idle_rounds < 100:  # until ZeroMQ's own queues and the kernel's are full too
                idle_rounds += 1
                with contextlib.suppress(BackpressureError):
                    while True:
                        server.send(peer, [b"x" * 8192])
                        idle_rounds = 0
                await asyncio.sleep(0.005)
            start = time.perf_counter()
        # What is queued was not read: it lingered, and came to an end.
        assert time.perf_counter() - start > 0.4


def test_context_closes_twice_and_leaves_no_descriptors(tmp_path):
    with ZmqContext() as warm_up:
        warm_up.connect(warm_up.bind("tcp://127.0.0.1:0").endpoint)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with ZmqContext() as context:
            context.connect(context.bind(f"ipc://{tmp_path}/mesh.sock").endpoint)
        context.close()
    assert len(os.listdir("/proc/self/fd")) <= before
