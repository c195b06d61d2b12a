"""How much one coordinator carries: many streams on toy models, the coordinator on a core alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mesh.codec import decode, encode
from mesh.messages import PROTOCOL_VERSION, Hello, Ping, Pong, Welcome
from mesh.zmq_transport import ZmqContext
from nodes.client import Client, GenerateOptions
from nodes.messages import TokensNotice

_CHOICES = 64
# More than is decoded while it is measured, and room for it in a cache for 128 streams.
_MAX_TOKENS, _CELLS = 8000, 1 << 20
_POLL_S = 0.05
_PROBE_S = 0.01
_START_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Carried:
    """rounds_per_s: of all streams. delay_s: of Pings answered between messages, p50 p99 most."""

    num_streams: int
    rounds_per_s: float
    tokens_per_s: float
    delay_s: tuple[float, float, float]
    coordinator_busy: float

    def __str__(self) -> str:
        p50, p99, most = (f"{seconds * 1e3:.1f}" for seconds in self.delay_s)
        return (
            f"{self.num_streams} streams: {self.rounds_per_s:.0f} stream-rounds/s, "
            f"{self.tokens_per_s:.0f} tokens/s; a Ping between them is answered after {p50} ms "
            f"(median), {p99} ms (p99), {most} ms (most); coordinator busy "
            f"{self.coordinator_busy:.0%} of its core"
        )


async def measure(num_streams: int, seconds: float, *, gamma: int = 4) -> Carried:
    """Run num_streams streams for some seconds after all have begun.

    The coordinator has the first core for itself where there are two; all else shares the others.
    """
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[1:]) or set(cores))
    try:
        return await _beside(cores[0], num_streams, seconds, gamma)
    finally:
        os.sched_setaffinity(0, set(cores))


async def _beside(core: int, num_streams: int, seconds: float, gamma: int) -> Carried:
    """The coordinator on a core, its nodes and clients where this process is."""
    with tempfile.TemporaryDirectory(prefix="airdraft-scale-") as folder:
        endpoint = f"ipc://{folder}/mesh.sock"
        num_nodes = -(-num_streams // 128)
        room = ["--max-streams", "128", "--cells", str(_CELLS)]
        async with contextlib.AsyncExitStack() as stack:
            coordinator = await stack.enter_async_context(
                _process("coordinator", "--listen", endpoint, core=core)
            )
            for number in range(num_nodes):
                for role in ("target", "draft"):
                    name = ["--name", f"{role}-{number}", "--connect", endpoint]
                    node = _process(role, "--model", "toy:0.9", *name, *room)
                    await stack.enter_async_context(node)
            with ZmqContext() as context:
                return await _measure(
                    context, endpoint, 2 * num_nodes, num_streams, seconds, gamma, coordinator
                )


@contextlib.asynccontextmanager
async def _process(*arguments: str, core: int | None = None) -> AsyncIterator[int]:
    """A node of this installation; its process id."""
    command = [sys.executable, "-m", "nodes.cli", *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    if core is not None:
        os.sched_setaffinity(process.pid, {core})
    try:
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _measure(
    context: ZmqContext,
    endpoint: str,
    num_nodes: int,
    num_streams: int,
    seconds: float,
    gamma: int,
    coordinator: int,
) -> Carried:
    counts = {"rounds": 0, "tokens": 0}
    begun: set[tuple[int, int]] = set()
    client = Client(context.connect(endpoint), endpoint=endpoint, join_timeout_s=_START_LIMIT_S)
    all_begun = asyncio.Event()
    delays: list[float] = []
    async with asyncio.TaskGroup() as group:
        serving = [group.create_task(client.run())]
        await _until(client, num_nodes)

        async def ask(number: int, num_choices: int) -> None:
            options = GenerateOptions(
                max_tokens=_MAX_TOKENS,
                num_choices=num_choices,
                temperature=0.8,
                seed=number,
                gamma=gamma,
                ignore_eog=True,
            )
            async for event in client.generate((5 + number,), options):
                if isinstance(event, TokensNotice):
                    counts["rounds"] += 1
                    counts["tokens"] += len(event.token_ids)
                    begun.add((number, event.choice))
                    if len(begun) == num_streams:
                        all_begun.set()

        for number in range(-(-num_streams // _CHOICES)):
            some = min(_CHOICES, num_streams - number * _CHOICES)
            serving.append(group.create_task(ask(number, some)))
        async with asyncio.timeout(_START_LIMIT_S):
            await all_begun.wait()
        serving.append(group.create_task(_probe(context, endpoint, delays)))
        await asyncio.sleep(2.0)
        del delays[:]
        before, busy_s, started = dict(counts), _cpu_s(coordinator), time.perf_counter()
        await asyncio.sleep(seconds)
        took_s = time.perf_counter() - started
        busy_s = _cpu_s(coordinator) - busy_s
        for task in serving:
            task.cancel()
    p50, p99, most = np.quantile(delays, [0.5, 0.99, 1.0])
    return Carried(
        num_streams,
        (counts["rounds"] - before["rounds"]) / took_s,
        (counts["tokens"] - before["tokens"]) / took_s,
        (float(p50), float(p99), float(most)),
        busy_s / took_s,
    )


async def _until(client: Client, num_nodes: int) -> None:
    async with asyncio.timeout(_START_LIMIT_S):
        present = 0
        while present < num_nodes:
            await asyncio.sleep(_POLL_S)
            present = len((await client.nodes()).nodes)


async def _probe(context: ZmqContext, endpoint: str, delays: list[float]) -> None:
    """Ping the coordinator now and then: its answer waits as everything else does."""
    transport = context.connect(endpoint)
    await transport.writable()
    transport.send(encode(Hello("probe", "client", 1, PROTOCOL_VERSION, b"")))
    welcome = decode(await transport.recv()).message
    assert isinstance(welcome, Welcome)
    seq = 0
    while True:
        sent = time.perf_counter()
        seq += 1
        ping = Ping(seq, 0)
        transport.send(encode(ping, cluster=welcome.cluster, epoch=welcome.epoch))
        while True:
            message = decode(await transport.recv()).message
            if isinstance(message, Pong) and message.seq == seq:
                break
        delays.append(time.perf_counter() - sent)
        await asyncio.sleep(_PROBE_S)


def _cpu_s(pid: int) -> float:
    """Seconds of processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
