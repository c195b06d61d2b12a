"""`python -m bench hostile`: attack the port of a coordinator with keys, beside a busy client."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

import click
import zmq

from airdraft.mesh.keys import ClientKeys
from airdraft.mesh.security import ServerKeys, client_options, new_key_pair
from airdraft.mesh.zmq_sockets import ZmqServer
from airdraft.mesh.zmq_transport import ZmqContext
from airdraft.nodes.client.client import RequestFailedError
from airdraft.nodes.service.runtime import raise_file_limit
from bench.harness.fleet import COORDINATOR, Fleet, Setup, fleet
from bench.harness.http import port_of
from bench.harness.processes import beside, cpu_s, resident_bytes
from bench.harness.report import Findings, conclude, quantiles
from bench.hostile.frames import decode_hostile
from bench.options import at_least

_ASK_EVERY_S = 0.02
_LIMIT_S = 120.0


@click.command("hostile")
@at_least("--frames", 10_000_000, "Frames to decode.", least=0)
@click.option("--seed", default=1)
@at_least("--connections", 100_000, "Connections that send garbage to the port.", least=0)
@at_least("--unknown", 10_000, "Messages from unknown keys.", "strangers", least=0)
def hostile_command(frames: int, seed: int, connections: int, strangers: int) -> None:
    """Attack a coordinator as strangers or broken peers can.

    A count of 0 skips a part.

    \b
    Example:
      python -m bench hostile --frames 100000 --connections 1000
    """
    found = []
    if frames:
        click.echo(str(decode_hostile(frames, seed)))
    if strangers:
        found.append(asyncio.run(unknown(strangers)))
    if connections:
        found.append(asyncio.run(garbage(connections)))
    conclude(*found)


@contextlib.asynccontextmanager
async def live_coordinator(prefix: Sequence[str] = ()) -> AsyncIterator[Fleet]:
    """Run a coordinator on loopback with keys, without limit for the files of this process.

    prefix: command that runs it.
    """
    raise_file_limit()
    async with fleet(Setup(num_targets=0, num_drafts=0), starts=()) as mesh:
        await mesh.start(COORDINATOR, prefix=prefix)
        yield mesh


async def busy(mesh: Fleet, seconds: float, name: str = COORDINATOR) -> float:
    """Returns the part of a core that a process takes during the next seconds."""
    pid = mesh.process(name).pid
    before_s, began = cpu_s([pid]), time.monotonic()
    await asyncio.sleep(seconds)
    return (cpu_s([pid]) - before_s) / (time.monotonic() - began)


@contextlib.asynccontextmanager
async def asking(mesh: Fleet) -> AsyncIterator[list[float]]:
    """Run an authorized client that sends requests during the block; it joins before it.

    Yields the seconds of its round trips.
    """
    times_s: list[float] = []
    async with mesh.clients(1) as (client,):
        await client.nodes()

        async def ask() -> None:
            while True:
                start = time.perf_counter()
                with contextlib.suppress(RequestFailedError):
                    await client.nodes()
                    times_s.append(time.perf_counter() - start)
                await asyncio.sleep(_ASK_EVERY_S)

        async with beside(ask()):
            yield times_s


def answers(times_s: Sequence[float]) -> str:
    """Returns round trips in words."""
    if not times_s:
        return "no answers"
    p50, p99, longest = (s * 1e3 for s in quantiles(times_s))
    return (
        f"{len(times_s)} answers, median {p50:.1f} ms, p99 {p99:.1f} ms, longest {longest:.1f} ms"
    )


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
    """Open `count` connections that send garbage while a client is served.

    Raises FleetError if the client is not served afterwards, or the coordinator has ended.
    """
    async with live_coordinator() as mesh, asking(mesh) as times_s:
        pid = mesh.process(COORDINATOR).pid
        before_mb, before_s = resident_bytes(pid) / 2**20, cpu_s([pid])
        times_s.clear()
        started = time.perf_counter()
        for first in range(0, count, _AT_ONCE):
            numbers = range(first, min(count, first + _AT_ONCE))
            port = port_of(mesh.endpoint)
            await asyncio.gather(*(_connection(port, number) for number in numbers))
        seconds, num_answers = time.perf_counter() - started, len(times_s)
        what = "after garbage the client was not answered"
        await mesh.until(lambda: len(times_s) > num_answers, _LIMIT_S, what)
        after_mb, took_s = resident_bytes(pid) / 2**20, cpu_s([pid]) - before_s
        text = (
            f"{count} garbage connections in {seconds:.0f} s, {_AT_ONCE} at a time: "
            f"{answers(times_s)}; coordinator {before_mb:.0f} to {after_mb:.0f} MB, "
            f"{took_s:.1f} s of processor time"
        )
        return Findings([text], [] if num_answers else ["beside garbage nothing was answered"])


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
    server_pair, known = new_key_pair(), new_key_pair()
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
    for _ in range(max(1, count // _QUEUE)):
        sockets.append(socket := context.socket(zmq.DEALER))
        socket.setsockopt(zmq.SNDHWM, 2 * _QUEUE)
        for option, value in client_options(ClientKeys(new_key_pair(), server_key)).items():
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
