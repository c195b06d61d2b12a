"""The gateway in a process of its own, before a fake mesh whose streams stop after a token.

It prints its base URL. It serves to measure the gateway without coordinator, wire and engine.
"""

from __future__ import annotations

import asyncio
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


class IdleMesh:
    """A fake mesh: it answers "quick" with one token, and all else with one and no end."""

    is_joined = True

    async def generate(self, prompt: Prompt, _options: GenerateOptions) -> AsyncIterator[Event]:
        yield StartedNotice(1, 1, 3, True, "idle", "", True, "idle", "idle")
        yield TokensNotice(1, 0, 0, _PIECE, (0,))
        if prompt != "quick":
            await asyncio.Event().wait()
        yield FinishedNotice(1, 0, 1, "length", StreamFigures(0, 0, 0, 0, 0, 0, ""))

    async def read(self, _prompt: Prompt, _options: GenerateOptions, wants: str) -> ReadNotice:
        raise RequestFailedError("not_found", f"this fake mesh has no {wants}")

    async def nodes(self) -> NodesReply:
        return NodesReply(1, (NodeFields("t", "target", "idle", True, True, 0),))

    async def status(self) -> Status:
        raise RequestFailedError("unavailable", "this fake mesh has no coordinator")


async def main() -> None:
    raise_file_limit()
    limits = GatewayLimits(
        max_concurrent=50_000, max_concurrent_per_key=50_000, max_connections=50_000
    )
    config = GatewayConfig(listen="127.0.0.1:0", limits=limits)
    server = HttpServer(IdleMesh(), config, Path("/nonexistent"))
    await server.serve(lambda: print(server.url, flush=True))


if __name__ == "__main__":
    asyncio.run(main())
