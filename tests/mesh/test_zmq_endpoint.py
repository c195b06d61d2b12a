"""Connections that close are told, whatever closes them; two real sockets in every test."""

import asyncio
import functools
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from airdraft.mesh.errors import PeerGoneError
from airdraft.mesh.security import ServerKeys, new_key_pair
from tests.mesh.zmq_pairs import greeted, is_gone, joined

ROOT = Path(__file__).parents[2]
# Connects, says hello, and waits to be killed.
CLIENT = """
import asyncio, sys
from airdraft.mesh.keys import ClientKeys, KeyPair
from airdraft.mesh.zmq_transport import ZmqContext

async def main(endpoint, *keys):
    keys = ClientKeys(KeyPair(keys[0], keys[1]), keys[2]) if keys else None
    with ZmqContext() as context:
        client = context.connect(endpoint, keys)
        await client.writable()
        client.send([b"hello"])
        await client.recv()

asyncio.run(main(*sys.argv[1:]))
"""


async def watched(server):
    """A task that waits for the first losses, and has begun to."""
    task = asyncio.ensure_future(server.lost_peers())
    await asyncio.sleep(0)
    return task


async def met(contexts, endpoint):
    """A server, a task that waits for its losses, a client that it has heard, and its peer id."""
    server = contexts[0].bind(endpoint)
    losses = await watched(server)
    return server, losses, *await greeted(server, contexts[1])


async def test_only_the_peer_that_left_is_told_and_a_send_to_it_fails(
    contexts, endpoint, eventually
):
    server = contexts[0].bind(endpoint)
    losses = await watched(server)
    clients, peers = zip(*[await greeted(server, contexts[1]) for _ in range(3)], strict=True)
    clients[1].close()
    assert await losses == [peers[1]]
    await eventually(lambda: is_gone(server, peers[1]))
    with pytest.raises(PeerGoneError) as caught:
        server.send(b"nobody", [b"x"])
    assert caught.value.peer == b"nobody"
    losses = await watched(server)
    server.send(peers[0], [b"still"])
    assert await clients[0].recv() == [b"still"]
    assert not losses.done()
    clients[0].close()
    clients[2].close()
    told = await losses
    while len(told) < 2:
        told += await server.lost_peers()
    assert sorted(told) == sorted([peers[0], peers[2]])


@pytest.mark.parametrize("kind", ["ipc", "tcp", "tcp with keys"])
async def test_a_killed_process_is_told(contexts, kind, tmp_path):
    pair, own = new_key_pair(), new_key_pair()
    keys = ServerKeys(pair, {own.public}.__contains__) if kind.endswith("keys") else None
    endpoint = f"ipc://{tmp_path}/mesh.sock" if kind == "ipc" else "tcp://127.0.0.1:0"
    server = contexts[0].bind(endpoint, keys)
    losses = await watched(server)
    argv = [own.public, own.secret, pair.public] if keys is not None else []
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, server.endpoint, *argv, cwd=ROOT
    )
    peer = (await server.recv()).peer
    process.send_signal(signal.SIGKILL)
    assert await losses == [peer]
    await process.wait()


async def test_socket_file_of_a_killed_process_is_replaced(context, tmp_path):
    path = tmp_path / "mesh.sock"
    script = (
        "import os, signal, sys; from airdraft.mesh.zmq_transport import ZmqContext;"
        "ZmqContext().bind(sys.argv[1]); os.kill(os.getpid(), signal.SIGKILL)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, f"ipc://{path}", cwd=ROOT
    )
    assert await process.wait() == -signal.SIGKILL
    assert path.is_socket()
    await joined(context, f"ipc://{path}")


async def test_a_flood_of_strangers_stops_nothing_and_is_nobodys_loss(contexts, endpoint):
    """ZeroMQ's thread waits where the queue of a monitor is full: this one has no limit."""
    server, losses, client, peer = await met(contexts, endpoint)
    # More than two default queues; the loop does not run meanwhile.
    for _ in range(2300):
        _knock(server.endpoint)
    client.send([b"there"])
    assert (await server.recv()).frames == [b"there"]
    assert not losses.done()
    client.close()
    assert await losses == [peer]


async def test_a_client_is_told_that_its_server_went(contexts, endpoint):
    server = contexts[0].bind(endpoint)
    client, _ = await greeted(server, contexts[1])
    losses = asyncio.ensure_future(client.lost())
    await asyncio.sleep(0)
    assert not losses.done()
    server.close()
    await losses


async def test_how_long_the_other_side_was_quiet_is_known_of_watched_connections(
    contexts, eventually
):
    server, losses, client, peer = await met(contexts, "tcp://127.0.0.1:0")
    losing = asyncio.ensure_future(client.lost())
    await asyncio.sleep(0)
    assert server.quiet_s(b"nobody") is client.quiet_s() is None
    server.send(peer, [b"there"])
    await client.recv()
    for quiet, send in (
        (functools.partial(server.quiet_s, peer), client.send),
        (client.quiet_s, functools.partial(server.send, peer)),
    ):
        await eventually(lambda quiet=quiet: quiet() > 0.5)
        again_at = time.monotonic()
        send([b"again"])
        # All but the half second before, however long this process then had to wait.
        await eventually(lambda q=quiet, at=again_at: q() < time.monotonic() - at + 0.2)
    client.close()
    assert await losses == [peer]
    await asyncio.gather(losing, return_exceptions=True)


async def test_cancelled_waits_lose_nothing(contexts, endpoint):
    server, losses, client, peer = await met(contexts, endpoint)
    losses.cancel()
    await asyncio.gather(losses, return_exceptions=True)
    client.close()
    assert await server.lost_peers() == [peer]


def _knock(endpoint):
    """Connect as somebody who has nothing to say."""
    if endpoint.startswith("ipc://"):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(endpoint.removeprefix("ipc://"))
    else:
        port = int(endpoint.rpartition(":")[2])
        socket.create_connection(("127.0.0.1", port)).close()
