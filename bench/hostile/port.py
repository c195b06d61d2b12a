"""Attack the port of a coordinator with keys, beside a client that keeps sending requests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import zmq

from bench.harness.fleet import COORDINATOR, Fleet, Setup, fleet
from bench.harness.http import port_of
from bench.harness.processes import cpu_s, ended, resident_bytes
from bench.harness.report import Findings, quantiles
from mesh.keys import AUTHORIZED_FILE, ClientKeys, KeyPair, write_private
from mesh.security import ServerKeys, client_options, new_key_pair
from mesh.zmq_sockets import ZmqServer
from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client
from nodes.keys.keyring import Keyring
from nodes.service.runtime import raise_file_limit

_ASK_EVERY_S = 0.02
_LIMIT_S = 120.0


@contextlib.asynccontextmanager
async def live_coordinator(
    pairs: Sequence[KeyPair] = (), max_files: int = 0
) -> AsyncIterator[Fleet]:
    """Run a coordinator on loopback with keys, without limit for the files of this process.

    pairs: key pairs that it lets in beside those of a fleet's clients. max_files: limit of its open
    files; 0 for none.
    """
    raise_file_limit()
    async with fleet(Setup(num_targets=0, num_drafts=0), starts=()) as mesh:
        ring = Keyring(mesh.keys(COORDINATOR))
        # A thousand keys are written at once, because each Entry is written with all before it.
        path = ring.directory / AUTHORIZED_FILE
        entries = [
            f'[[node]]\nkey = "{pair.public}"\nname = "n{number}"\nroles = ["client"]\n'
            for number, pair in enumerate(pairs)
        ]
        write_private(path, path.read_text() + "".join(entries))
        await mesh.start(COORDINATOR, max_files=max_files)
        yield mesh


async def busy(mesh: Fleet, seconds: float, name: str = COORDINATOR) -> float:
    """Return the part of a core that a process takes during the next seconds."""
    pid = mesh.process(name).pid
    before_s, began = cpu_s([pid]), time.monotonic()
    await asyncio.sleep(seconds)
    return (cpu_s([pid]) - before_s) / (time.monotonic() - began)


@dataclass(slots=True)
class Asked:
    """Round trips of the client."""

    times_s: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.times_s:
            return "no answers"
        p50, p99, longest = (s * 1e3 for s in quantiles(self.times_s))
        return (
            f"{len(self.times_s)} answers, median {p50:.1f} ms, p99 {p99:.1f} ms, longest "
            f"{longest:.1f} ms"
        )


@contextlib.asynccontextmanager
async def asking(mesh: Fleet) -> AsyncIterator[Asked]:
    """Run an authorized client that sends requests during the block; it joins before it."""
    asked = Asked()
    async with mesh.clients(1) as (client,):
        await client.nodes()

        async def ask() -> None:
            while True:
                start = time.perf_counter()
                await client.nodes()
                asked.times_s.append(time.perf_counter() - start)
                await asyncio.sleep(_ASK_EVERY_S)

        task = asyncio.create_task(ask())
        try:
            yield asked
        finally:
            await ended([task])


@contextlib.asynccontextmanager
async def crowd_of(
    mesh: Fleet, pairs: Sequence[KeyPair], least: int
) -> AsyncIterator[list[Client]]:
    """Run a client for each key pair; the block begins when at least so many have joined.

    Raises FleetError if they do not join.
    """

    async with mesh.clients(len(pairs), pairs=pairs) as clients:

        def have_joined() -> bool | None:
            return sum(client.is_joined for client in clients) >= least or None

        await mesh.until(have_joined, _LIMIT_S, "the clients have not joined")
        yield clients


def new_pairs(count: int) -> list[KeyPair]:
    return [new_key_pair() for _ in range(count)]


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
    """Send messages with unknown keys to a socket in this process and count what is delivered."""
    raise_file_limit()
    server_pair, known = new_pairs(2)
    with ZmqContext() as context:
        keys = ServerKeys(server_pair, {known.public}.__contains__)
        server = context.bind("tcp://127.0.0.1:0", keys)
        num_queued = await _send_as_unknown(server.endpoint, server_pair.public, count)
        heard = await _heard(server)
        # A message with a known key must arrive, or the count above would show nothing.
        authorized = context.connect(server.endpoint, ClientKeys(known, server_pair.public))
        await authorized.writable()
        authorized.send([b"hello"])
        num_known = await _heard(server)
    text = (
        f"{num_queued} messages with unknown keys: {heard} were delivered; {num_known} of 1 "
        f"message with a known key was delivered"
    )
    faults = [] if num_known == 1 else ["a message with a known key was not delivered"]
    if heard or not num_queued:
        faults.append(f"{heard} of {num_queued} messages with unknown keys were delivered")
    return Findings([text], faults)


async def _send_as_unknown(endpoint: str, server_key: str, count: int) -> int:
    """Queue messages of sockets with unknown keys, and close them after a while.

    The messages are queued without waiting for a handshake. Returns how many were queued.
    """
    context = zmq.Context[zmq.Socket[bytes]]()
    sockets: list[zmq.Socket[bytes]] = []
    num_queued = 0
    for pair in new_pairs(max(1, count // _QUEUE)):
        sockets.append(socket := context.socket(zmq.DEALER))
        socket.setsockopt(zmq.SNDHWM, 2 * _QUEUE)
        for option, value in client_options(ClientKeys(pair, server_key)).items():
            socket.setsockopt(option, value)
        socket.connect(endpoint)
        # A peer may be refused, and its connection closed, while messages are queued.
        with contextlib.suppress(zmq.Again):
            for _ in range(min(count, _QUEUE)):
                socket.send(b"secret", zmq.DONTWAIT)
                num_queued += 1
    await asyncio.sleep(_SETTLE_S)
    for socket in sockets:
        socket.close(linger=0)
    context.term()
    return num_queued


async def _heard(server: ZmqServer) -> int:
    count = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SETTLE_S):
            while True:
                await server.recv()
                count += 1
    return count
