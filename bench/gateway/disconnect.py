"""Clients that disconnect at any point: all their resources are freed and no process ends."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import httpx

from bench.harness.http import COMPLETIONS, request_of
from bench.harness.report import Findings, counts
from bench.harness.up import TOYS, Up, up
from nodes.cli.connection import with_client
from nodes.client.client import Client

# Points of disconnecting: within head or body, before an answer, within a stream, or while a whole
# answer is made.
POINTS: Final = ("head", "body", "waiting", "streaming", "whole")
_AT_A_TIME: Final = 50
_LIMIT_S: Final = 120.0
_POLL_S: Final = 0.01
_CHECK: Final = {"prompt": "still here", "max_tokens": 24, "temperature": 0}


@dataclass(slots=True)
class Leaks(Findings):
    """Findings. freed_s: seconds from each group's last disconnect until no node had a stream."""

    points: Counter[str] = field(default_factory=Counter)
    freed_s: list[float] = field(default_factory=list)
    most_streams: int = 0

    def summary(self) -> list[str]:
        return [
            f"{self.points.total()} disconnects ({counts(self.points)}) in groups of {_AT_A_TIME}, "
            f"up to {self.most_streams} streams at once: freed after {max(self.freed_s):.3f} s at "
            f"most"
        ]


def run_disconnect(num_clients: int, seed: int = 1, arguments: tuple[str, ...] = TOYS) -> Leaks:
    """Disconnect num_clients clients. arguments: those of `airdraft up` for the mesh."""
    leaks, source = Leaks(), random.Random(seed)
    with up(*arguments, AIRDRAFT_LIMITS__MAX_CONCURRENT_PER_KEY="256") as mesh:

        async def work(client: Client) -> None:
            expected = await _text(mesh)
            names = {node.node for node in (await client.nodes()).nodes}
            for done in range(0, num_clients, _AT_A_TIME):
                await _group(mesh, client, leaks, source, min(_AT_A_TIME, num_clients - done))
            if {node.node for node in (await client.nodes()).nodes} != names:
                leaks.faults.append("a node has left the mesh")
            if await _text(mesh) != expected:
                leaks.faults.append("a text differs from the one before the disconnects")
            await _check_status(client, leaks)

        asyncio.run(with_client(mesh.endpoint, str(mesh.keys), work))
    leaks.faults += mesh.faults
    return leaks


async def _group(mesh: Up, client: Client, leaks: Leaks, source: random.Random, count: int) -> None:
    points = [source.choice(POINTS) for _ in range(count)]
    leaks.points.update(points)
    leaving = asyncio.gather(
        *(_leave(mesh, point, random.Random(source.random())) for point in points)
    )
    while not leaving.done():
        leaks.most_streams = max(leaks.most_streams, await _num_streams(client))
        await asyncio.sleep(_POLL_S)
    await leaving
    leaks.freed_s.append(await _freed_s(client))
    if leaks.freed_s[-1] > 1.0:
        leaks.faults.append(f"streams were freed only after {leaks.freed_s[-1]:.3f} s")


async def _freed_s(client: Client) -> float:
    began = time.monotonic()
    while True:
        is_free = not await _num_streams(client)
        waited_s = time.monotonic() - began
        if is_free or waited_s > _LIMIT_S:
            return waited_s
        await asyncio.sleep(_POLL_S)


async def _num_streams(client: Client) -> int:
    return sum(node.num_streams for node in (await client.nodes()).nodes)


async def _check_status(client: Client, leaks: Leaks) -> None:
    """Check the coordinator's status at the end: no streams, no used cells, no waiting requests."""
    give_up_at = time.monotonic() + _LIMIT_S
    while True:
        status = await client.status()
        left = [
            *(f"stream {stream.stream_id}" for stream in status.streams),
            *(f"{n.num_streams} streams of {n.name}" for n in status.nodes if n.num_streams),
            *(f"{n.used_cells} cells of {n.name}" for n in status.nodes if n.used_cells),
            *([f"{status.waiting.num_streams} waiting"] if status.waiting.num_streams else []),
            *(["some tokenizing"] if status.waiting.num_tokenizing else []),
        ]
        # The coordinator updates its status twice a second.
        if not left or time.monotonic() > give_up_at:
            leaks.faults += left
            return
        await asyncio.sleep(_POLL_S)


async def _leave(mesh: Up, point: str, source: random.Random) -> None:
    """Run one client that disconnects at a random moment of the given point."""
    body = {
        "prompt": "x" * source.randrange(1, 400),
        "max_tokens": 3000 if point != "whole" else source.randrange(50, 3000),
        "n": source.choice((1, 1, 2)),
        "ignore_eos": True,
        "stream": point != "whole",
    }
    request = request_of(COMPLETIONS, body)
    head_bytes = request.index(b"\r\n\r\n")
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.port)
    match point:
        case "head":
            sent = request[: source.randrange(head_bytes)]
        case "body":
            sent = request[: source.randrange(head_bytes, len(request))]
        case _:
            sent = request
    writer.write(sent)
    if point == "streaming":
        wanted = source.randrange(1, 20_000)
        while wanted > 0 and (part := await reader.read(min(wanted, 4096))):
            wanted -= len(part)
    else:
        await asyncio.sleep(source.random() * (0.5 if point == "whole" else 0.05))
    if source.random() < 0.5:
        writer.transport.abort()
        return
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def _text(mesh: Up) -> str:
    async with httpx.AsyncClient(base_url=mesh.url, timeout=_LIMIT_S) as client:
        answer = (await client.post("/completions", json=_CHECK)).raise_for_status()
        text: str = answer.json()["choices"][0]["text"]
        return text
