"""Processor time of the gateway for each token that it sends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from bench.gateway.process import cpu_s, steady_gateway, stream_request

_GAP_S = 0.01


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
    with steady_gateway(_GAP_S, each) as (port, pid):
        return asyncio.run(_measure(num_streams, each, port, pid))


async def _measure(num_streams: int, each: int, port: int, pid: int) -> Cost:
    before_s = cpu_s(pid)
    await asyncio.gather(*(_read(port) for _ in range(num_streams)))
    return Cost(num_streams, num_streams * each, cpu_s(pid) - before_s)


async def _read(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(stream_request("steady"))
    tail = b""
    while b"[DONE]" not in tail:
        part = await reader.read(65_536)
        assert part, "the stream broke off"
        tail = tail[-16:] + part
    writer.close()
