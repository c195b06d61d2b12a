"""Asks stages over links of their own, before a target uses them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from airdraft.mesh.codec import decode, encode
from airdraft.mesh.errors import BackpressureError
from airdraft.mesh.keys import ClientKeys
from airdraft.mesh.transport import ClientTransport
from airdraft.mesh.zmq_transport import ZmqContext
from airdraft.nodes.engine.protocol import EngineError
from airdraft.nodes.messages.stages import IN_USE, MEASURING, StageFactsReply, StageFactsRequest
from airdraft.nodes.stage.parts import Part
from airdraft.policies.latency import CostTable

ASK_EVERY_S: Final = 0.5
# ZeroMQ does not try a handshake again that was refused, as by a stage that does not know yet who
# may use it.
_RETRY_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class StageAddress:
    """Where a stage listens, and the keys of the link to it; None on this machine.

    name: as users know it.
    """

    endpoint: str
    keys: ClientKeys | None
    name: str


async def asked_again(client: ClientTransport, request: Any) -> AsyncIterator[Any]:
    """Send a request each half second; yield what comes back, and None when nothing did."""
    frames, loop = encode(request), asyncio.get_running_loop()
    connected_at, asked_at = loop.time(), -math.inf
    while True:
        now = loop.time()
        if now - asked_at >= ASK_EVERY_S:
            asked_at = now
            try:
                client.send(frames)
                connected_at = now
            except BackpressureError:
                if now - connected_at > _RETRY_S:
                    connected_at = now
                    client.retry()
        message = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, asked_at + ASK_EVERY_S - now)):
                message = decode(await client.recv()).message
        yield message


@dataclass(frozen=True, slots=True)
class Facts:
    """What a machine has for a stage. passes: what those of the sample take there; None without
    one. fixed: the only part that it runs; None if it runs any."""

    free_bytes: int
    passes: CostTable | None
    rtt_s: float
    fixed: Part | None


def facts_of(
    stages: Sequence[StageAddress], sample: StageFactsRequest, limit_s: float
) -> list[Facts]:
    """Returns what each stage has. sample: of the model, or none.

    Raises EngineError, which names the stage, and MeshError.
    """

    async def ask_all() -> list[Facts]:
        with ZmqContext() as context:
            clients = [context.connect(stage.endpoint, stage.keys) for stage in stages]
            asking = [
                _facts(stage, client, sample, limit_s)
                for stage, client in zip(stages, clients, strict=True)
            ]
            return await asyncio.gather(*asking)

    return asyncio.run(ask_all())


async def _facts(
    stage: StageAddress, client: ClientTransport, sample: StageFactsRequest, limit_s: float
) -> Facts:
    told = await _told_facts(stage, client, sample, limit_s)
    # Not what it takes to connect, and to measure passes.
    began = time.monotonic()
    await _told_facts(stage, client, StageFactsRequest(), limit_s)
    rtt_s = time.monotonic() - began
    fixed = None
    if told.end:
        # The stage has a file of some name.
        fixed = Part(told.model_hash, f"{told.first}-{told.end}.gguf", told.first, told.end)
    return Facts(told.free_bytes, next(iter(told.passes), None), rtt_s, fixed)


async def _told_facts(
    stage: StageAddress, client: ClientTransport, request: StageFactsRequest, limit_s: float
) -> StageFactsReply:
    why, deadline = "did not answer: is it running, and reachable?", time.monotonic() + limit_s
    async for message in asked_again(client, request):
        if isinstance(message, StageFactsReply):
            if not message.reason:
                return message
            why = f"cannot be used: {message.reason}"
            if message.reason not in (IN_USE, MEASURING):
                break
            if message.reason == MEASURING:
                deadline = time.monotonic() + limit_s
        if time.monotonic() > deadline:
            break
    raise EngineError(f"stage {stage.name} {why}")
