"""Many streams on which nothing comes."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass

from bench.gateway.process import resident_bytes, steady_gateway, stream_request
from nodes.runtime import raise_file_limit

_AT_A_TIME = 100
_TRIES = 200


@dataclass(frozen=True, slots=True)
class Idle:
    num_streams: int
    bytes_each: float
    first_token_before_s: float
    first_token_with_s: float

    def __str__(self) -> str:
        ratio = self.first_token_with_s / self.first_token_before_s
        return (
            f"{self.num_streams} idle streams: {self.bytes_each / 1024:.1f} KiB each; first token "
            f"of another request, median: {self.first_token_before_s * 1e3:.2f} ms before, "
            f"{self.first_token_with_s * 1e3:.2f} ms with them ({ratio:.2f} x)"
        )


def run_idle(num_streams: int) -> Idle:
    raise_file_limit()
    with steady_gateway(0.0, 2) as (port, pid):
        return asyncio.run(_measure(num_streams, port, pid))


async def _measure(num_streams: int, port: int, pid: int) -> Idle:
    before_s = await _first_token_s(port)
    before_bytes = resident_bytes(pid)
    writers: list[asyncio.StreamWriter] = []
    while len(writers) < num_streams:
        count = min(_AT_A_TIME, num_streams - len(writers))
        writers += await asyncio.gather(*(_open(port, "idle") for _ in range(count)))
    each = (resident_bytes(pid) - before_bytes) / num_streams
    with_s = await _first_token_s(port)
    for writer in writers:
        writer.transport.abort()
    return Idle(num_streams, each, before_s, with_s)


async def _open(port: int, prompt: str) -> asyncio.StreamWriter:
    """A stream whose first token has come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
    writer.write(stream_request(prompt))
    await reader.readuntil(b'"text":" token"')
    return writer


async def _first_token_s(port: int) -> float:
    """The median over requests, each with a connection of its own."""
    found = []
    for _ in range(_TRIES):
        began = time.perf_counter()
        writer = await _open(port, "quick")
        found.append(time.perf_counter() - began)
        writer.transport.abort()
    return statistics.median(found)
