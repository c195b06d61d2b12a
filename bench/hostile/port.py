"""Connect unknown and garbage-sending peers to a coordinator, and many authorized ones."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

import zmq

from bench.harness.fleet import COORDINATOR
from bench.harness.http import port_of
from bench.harness.processes import resident_bytes
from bench.harness.report import Findings
from bench.hostile.live import asking, busy, crowd_of, live_coordinator, new_pairs
from bench.load.processes import cpu_s
from mesh.keys import ClientKeys
from mesh.security import ServerKeys, client_options, server_options
from mesh.zmq_sockets import ZmqServer
from mesh.zmq_transport import ZmqContext
from nodes.service.runtime import raise_file_limit

_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00"
# Other protocols, cut greetings, the wrong mechanism, a hello of zeros; b"" sends nothing.
OPENINGS = (
    b"",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32),
    _GREETING,
    _GREETING + b"NULL".ljust(20, b"\0") + bytes(32) + b"\x04\x19\x05READY",
    _GREETING + b"CURVE".ljust(20, b"\0") + bytes(32) + b"\x04\xc8" + b"\x05HELLO" + bytes(194),
    b"\xff" * 2048,
)
_AT_ONCE = 200
_QUEUE = 1_000
_SETTLE_S = 1.5


async def garbage(count: int) -> Findings:
    """Open `count` connections that send garbage while a client is served."""
    async with live_coordinator() as mesh, asking(mesh) as asked:
        pid = mesh.process(COORDINATOR).pid
        before_mb, before_s = resident_bytes(pid) / 2**20, cpu_s([pid])
        asked.times_s.clear()
        started = time.perf_counter()
        for first in range(0, count, _AT_ONCE):
            numbers = range(first, min(count, first + _AT_ONCE))
            port = port_of(mesh.endpoint)
            await asyncio.gather(*(_connection(port, number) for number in numbers))
        seconds = time.perf_counter() - started
        text = (
            f"{count} garbage connections in {seconds:.0f} s, {_AT_ONCE} at a time: {asked}; "
            f"coordinator {before_mb:.0f} to {resident_bytes(pid) / 2**20:.0f} MB, "
            f"{cpu_s([pid]) - before_s:.1f} s of processor time"
        )
        return Findings([text], [] if asked.times_s else ["beside garbage nothing was answered"])


async def _connection(port: int, number: int) -> None:
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(2.0):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(OPENINGS[number % len(OPENINGS)])
                await writer.drain()
                await asyncio.sleep(0.01)
            finally:
                writer.close()


async def unknown(count: int) -> Findings:
    """Send messages with unknown keys to sockets in this process and count what is delivered."""
    raise_file_limit()
    server_pair, known = new_pairs(2)
    server_keys = ServerKeys(server_pair, {known.public}.__contains__)
    with ZmqContext() as context:
        server = context.bind("tcp://127.0.0.1:0", server_keys)
        with _unknown_peers(server.endpoint, server_pair.public, count) as queued:
            await asyncio.sleep(_SETTLE_S)
            heard = await _heard(server)
        # A message with a known key must arrive, or the count above would show nothing.
        authorized = context.connect(server.endpoint, ClientKeys(known, server_pair.public))
        await authorized.writable()
        authorized.send([b"hello"])
        num_known = await _heard(server)
    # The same options without an authentication handler, as if the handler had died.
    alone = zmq.Context()
    socket_ = alone.socket(zmq.ROUTER)
    try:
        for option, value in server_options(server_keys).items():
            socket_.setsockopt(option, value)
        port = socket_.bind_to_random_port("tcp://127.0.0.1")
        heard_without = 0
        with _unknown_peers(f"tcp://127.0.0.1:{port}", server_pair.public, count) as more:
            queued += more
            await asyncio.sleep(_SETTLE_S)
            while socket_.poll(0):
                socket_.recv_multipart()
                heard_without += 1
    finally:
        socket_.close(linger=0)
        alone.term()
    text = (
        f"{queued} messages with unknown keys: {heard + heard_without} were delivered, "
        f"{heard_without} of them without an authentication handler; {num_known} of 1 message with "
        f"a known key was delivered"
    )
    faults = [] if num_known == 1 else ["a message with a known key was not delivered"]
    if heard + heard_without:
        faults.append(f"{heard + heard_without} messages with unknown keys were delivered")
    return Findings([text], faults)


@contextlib.contextmanager
def _unknown_peers(endpoint: str, server_key: str, count: int) -> Iterator[int]:
    """Open sockets with unknown keys and queue messages; yield how many were queued.

    The messages are queued without waiting for a handshake.
    """
    context = zmq.Context()
    sockets: list[zmq.Socket[bytes]] = []
    num_queued = 0
    try:
        for pair in new_pairs(max(1, count // _QUEUE)):
            left = min(count, _QUEUE)
            while left:
                socket_ = context.socket(zmq.DEALER)
                sockets.append(socket_)
                socket_.setsockopt(zmq.SNDHWM, 2 * _QUEUE)
                for option, value in client_options(ClientKeys(pair, server_key)).items():
                    socket_.setsockopt(option, value)
                socket_.connect(endpoint)
                # A peer may be refused, and its connection closed, while messages are queued.
                with contextlib.suppress(zmq.Again):
                    for _ in range(left):
                        socket_.send(b"secret", zmq.DONTWAIT)
                        left -= 1
                        num_queued += 1
        yield num_queued
    finally:
        for socket_ in sockets:
            socket_.close(linger=0)
        context.term()


async def _heard(server: ZmqServer) -> int:
    count = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SETTLE_S):
            while True:
                await server.recv()
                count += 1
    return count


async def crowd(count: int, seconds: float) -> Findings:
    """Connect `count` authorized peers at once, each with a key of its own."""
    pairs = new_pairs(count)
    async with live_coordinator(pairs) as mesh:
        started = time.perf_counter()
        async with crowd_of(mesh, pairs, count) as clients:
            joined_s = time.perf_counter() - started
            async with asking(mesh) as asked:
                cpu = await busy(mesh, seconds)
            rss_mb = resident_bytes(mesh.process(COORDINATOR).pid) / 2**20
            num_lost = sum(not client.is_joined for client in clients)
            await asyncio.gather(*(client.nodes() for client in clients if client.is_joined))
    text = (
        f"{count} peers with keys of their own: registered in {joined_s:.1f} s, coordinator "
        f"{rss_mb:.0f} MB and {cpu:.0%} of a core with heartbeats of 0.5 s, {num_lost} lost; "
        f"one more client: {asked}"
    )
    faults = [f"{num_lost} peers were lost"] if num_lost else []
    if not asked.times_s:
        faults.append("beside them nothing was answered")
    return Findings([text], faults)
