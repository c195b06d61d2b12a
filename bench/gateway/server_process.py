"""The gateway in a process of its own, before a fake mesh that sends tokens at given times.

Arguments: seconds between the tokens of a stream, 0 for none after the first; tokens of a stream.
It prints its base URL. It serves to measure the gateway without coordinator, wire and engine.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from nodes.client.client import Event, RequestFailedError
from nodes.client.generation import GenerateOptions, Prompt
from nodes.gateway.config import GatewayConfig, GatewayLimits
from nodes.gateway.server import HttpServer
from nodes.messages import (
    FinishedNotice,
    NodeFields,
    NodesReply,
    ReadNotice,
    StartedNotice,
    StreamFigures,
    TokensNotice,
)
from nodes.service.runtime import raise_file_limit
from nodes.telemetry.status import Status

_PIECE = b" token"


class SteadyMesh:
    """A fake mesh: it answers with equal tokens at equal intervals, and "quick" with one token."""

    is_joined = True

    def __init__(self, gap_s: float, num_tokens: int) -> None:
        self._gap_s = gap_s
        self._num_tokens = num_tokens

    async def generate(self, prompt: Prompt, _options: GenerateOptions) -> AsyncIterator[Event]:
        yield StartedNotice(1, 1, 3, True, "steady", "", True, "steady", "steady")
        num_tokens = 1 if prompt == "quick" else self._num_tokens
        for position in range(num_tokens):
            if position:
                await (asyncio.sleep(self._gap_s) if self._gap_s else asyncio.Event().wait())
            yield TokensNotice(1, 0, position, _PIECE, (position,))
        yield FinishedNotice(1, 0, num_tokens, "length", StreamFigures(0, 0, 0, 0, 0, 0, ""))

    async def read(self, _prompt: Prompt, _options: GenerateOptions, wants: str) -> ReadNotice:
        raise RequestFailedError("not_found", f"this fake mesh has no {wants}")

    async def nodes(self) -> NodesReply:
        return NodesReply(1, (NodeFields("t", "target", "steady", True, True, 0),))

    async def status(self) -> Status:
        raise RequestFailedError("unavailable", "this fake mesh has no coordinator")


async def main(gap_s: float, num_tokens: int) -> None:
    raise_file_limit()
    limits = GatewayLimits(
        max_concurrent=50_000, max_concurrent_per_key=50_000, max_connections=50_000
    )
    config = GatewayConfig(listen="127.0.0.1:0", limits=limits)
    server = HttpServer(SteadyMesh(gap_s, num_tokens), config, Path("/nonexistent"))
    await server.serve(lambda: print(server.url, flush=True))


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), int(sys.argv[2])))
