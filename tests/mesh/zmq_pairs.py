"""A ZeroMQ server and its client, and what runs beside a test of them."""

import asyncio
import contextlib

from airdraft.mesh.errors import BackpressureError, PeerGoneError


@contextlib.asynccontextmanager
async def running(*coroutines):
    """Run loops beside a test, and let none outlive it or die unnoticed."""
    tasks = [asyncio.ensure_future(c) for c in coroutines]
    try:
        yield
        assert not any(t.done() for t in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def echo(server):
    while True:
        peer, frames, _ = await server.recv()
        server.send(peer, frames)


async def joined(context, endpoint):
    """A server, a client, and the client's peer id there."""
    server = context.bind(endpoint)
    return server, *await greeted(server, context)


async def greeted(server, context):
    """Another client of a server, which it has heard, and its peer id."""
    client = context.connect(server.endpoint)
    await client.writable()
    client.send([b"hello"])
    peer, frames, _ = await server.recv()
    assert frames == [b"hello"]
    return client, peer


async def send_when_room(send, frames):
    while True:
        try:
            return send(frames)
        except BackpressureError:
            await asyncio.sleep(0)


def is_gone(server, peer):
    """Whether a server knows that a peer has left."""
    try:
        server.send(peer, [b"x"])
    except PeerGoneError:
        return True
    except BackpressureError:
        # The checks before have filled its queue, and its end is still to come.
        pass
    return False
