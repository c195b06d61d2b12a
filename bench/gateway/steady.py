"""A gateway before a fake mesh: its processor time for each token, and the cost of idle streams.

The cost of many idle streams is memory, and the delay of another request.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench.harness.http import COMPLETIONS, port_of, request_of
from bench.harness.processes import resident_bytes
from bench.live.pairs import Ratio, paired_ratio
from bench.load.processes import cpu_s
from nodes.service.runtime import raise_file_limit

_AT_A_TIME = 100
# Each side of a pair is the median of this many requests.
_TRIES = 20
# Seconds between two tokens of a stream whose cost is measured.
_GAP_S = 0.01


@contextlib.contextmanager
def steady_gateway(gap_s: float, num_tokens: int) -> Iterator[tuple[int, int]]:
    """Run a gateway before a SteadyMesh (server_process.py); yield its port and process id."""
    command = [sys.executable, "-m", "bench.gateway.server_process", str(gap_s), str(num_tokens)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield port_of(process.stdout.readline()), process.pid
        finally:
            process.kill()


async def _asked(port: int, prompt: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request for a stream on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
    body = {"prompt": prompt, "stream": True, "max_tokens": 32768}
    writer.write(request_of(COMPLETIONS, body))
    return reader, writer


@dataclass(frozen=True, slots=True)
class Cost:
    """Processor seconds of the gateway for num_tokens tokens of num_streams streams."""

    num_streams: int
    num_tokens: int
    seconds: float

    def __str__(self) -> str:
        each_us = self.seconds / self.num_tokens * 1e6
        return (
            f"{self.num_streams} streams, a token each {_GAP_S * 1e3:g} ms: "
            f"{each_us:.0f} us of processor time a token ({self.num_tokens} tokens)"
        )


def run_cost(num_streams: int, num_tokens: int) -> Cost:
    each = max(2, num_tokens // num_streams)

    async def read(port: int) -> None:
        reader, writer = await _asked(port, "steady")
        async for line in reader:
            if line == b"data: [DONE]\n":
                break
        else:
            raise ConnectionError("the stream broke off")
        writer.close()

    async def all_streams(port: int) -> None:
        await asyncio.gather(*(read(port) for _ in range(num_streams)))

    with steady_gateway(_GAP_S, each) as (port, pid):
        before_s = cpu_s([pid])
        asyncio.run(all_streams(port))
        return Cost(num_streams, num_streams * each, cpu_s([pid]) - before_s)


@dataclass(frozen=True, slots=True)
class Idle:
    """Figures of idle streams. first_token_s: medians of an empty gateway and of one with the
    streams. ratio: that of the latter to the former, in pairs."""

    num_streams: int
    bytes_each: float
    first_token_s: tuple[float, float]
    ratio: Ratio

    def __str__(self) -> str:
        empty_ms, full_ms = (seconds * 1e3 for seconds in self.first_token_s)
        return (
            f"{self.num_streams} idle streams: {self.bytes_each / 1024:.1f} KiB each; first token "
            f"of another request: {full_ms:.2f} ms, {empty_ms:.2f} ms with an empty gateway, "
            f"{self.ratio} x in pairs"
        )


def run_idle(num_streams: int, num_pairs: int = 15) -> Idle:
    """Measure a gateway with the streams beside an empty one."""
    raise_file_limit()
    with steady_gateway(0.0, 2) as (empty, _pid), steady_gateway(0.0, 2) as (port, pid):
        return asyncio.run(_measure(num_streams, num_pairs, empty, port, pid))


async def _measure(num_streams: int, num_pairs: int, empty: int, port: int, pid: int) -> Idle:
    for warm in (empty, port):
        await _first_token_s(warm)
    before_bytes = resident_bytes(pid)
    writers: list[asyncio.StreamWriter] = []
    while len(writers) < num_streams:
        count = min(_AT_A_TIME, num_streams - len(writers))
        writers += await asyncio.gather(*(_open(port, "idle") for _ in range(count)))
    each = (resident_bytes(pid) - before_bytes) / num_streams
    pairs = []
    for turn in range(num_pairs):
        order = (empty, port) if turn % 2 else (port, empty)
        found = {each_port: await _first_token_s(each_port) for each_port in order}
        pairs.append((found[empty], found[port]))
    for writer in writers:
        writer.transport.abort()
    medians = tuple(map(statistics.median, zip(*pairs, strict=True)))
    return Idle(num_streams, each, (medians[0], medians[1]), paired_ratio(pairs))


async def _open(port: int, prompt: str) -> asyncio.StreamWriter:
    """Open a stream and wait for its first token."""
    reader, writer = await _asked(port, prompt)
    await reader.readuntil(b'"text":" token"')
    return writer


async def _first_token_s(port: int) -> float:
    """Return the median time to the first token over requests with a connection each."""
    found = []
    for _ in range(_TRIES):
        began = time.perf_counter()
        writer = await _open(port, "quick")
        found.append(time.perf_counter() - began)
        writer.transport.abort()
    return statistics.median(found)
