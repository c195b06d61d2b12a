"""ZeroMQ sockets that close, and peers and servers that go: told, with a limit, nothing left."""

import asyncio
import contextlib
import time

import pytest

from mesh.errors import BackpressureError, LocalProtocolError, PeerGoneError
from mesh.zmq_transport import ZmqContext
from tests.mesh.zmq_pairs import joined


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


@pytest.mark.parametrize("what", ["messages", "losses"])
async def test_two_who_wait_are_a_bug_and_closing_under_one_is_loud(context, endpoint, what):
    server, client, _ = await joined(context, endpoint)
    waits = {"messages": (server.recv, client.recv), "losses": (server.lost_peers, client.lost)}
    waiting = [asyncio.ensure_future(wait()) for wait in waits[what]]
    await asyncio.sleep(0)
    for wait in waits[what]:
        with pytest.raises(LocalProtocolError, match="two tasks"):
            await wait()
    server.close()
    client.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [LocalProtocolError, LocalProtocolError]
    with pytest.raises(LocalProtocolError):
        client.send([b"x"])
    with pytest.raises(LocalProtocolError):
        await waits[what][0]()
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
