"""Costs of many idle streams: memory, and delay of another request."""

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
from nodes.service.runtime import raise_file_limit

_AT_A_TIME = 100
# Each side of a pair is the median of this many requests.
_TRIES = 20


@contextlib.contextmanager
def steady_gateway() -> Iterator[tuple[int, int]]:
    """Run a gateway before a fake mesh (server_process.py); yield its port and process id."""
    command = [sys.executable, "-m", "bench.gateway.server_process"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield port_of(process.stdout.readline()), process.pid
        finally:
            process.kill()


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
    with steady_gateway() as (empty, _pid), steady_gateway() as (port, pid):
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
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
    body = {"prompt": prompt, "stream": True, "max_tokens": 32768}
    writer.write(request_of(COMPLETIONS, body))
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
