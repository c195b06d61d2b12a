"""How much one coordinator carries: many streams on nodes that look tokens up, on a core alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.live.light_nodes import key_of, token_at
from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions
from nodes.messages import TokensNotice

_CHOICES = 64
# More than is decoded while it is measured.
_MAX_TOKENS = 16_000
_POLL_S = 0.05
_START_LIMIT_S = 120.0
_SETTLE_S = 2.0
_LONGEST_LINE = 1 << 26


@dataclass(frozen=True, slots=True)
class Carried:
    """passes_per_s: of all streams, each counted alone. delay_s: of Pings answered between
    messages, p50 p99 most.

    num_wrong: notices with tokens that are not those of law 1. is_probe_first: whether Pings went
    before all else on their core; else their delays hold waits for it.
    """

    num_streams: int
    passes_per_s: float
    tokens_per_s: float
    delay_s: tuple[float, float, float]
    coordinator_busy: float
    num_wrong: int
    is_probe_first: bool = False

    def __str__(self) -> str:
        p50, p99, most = (f"{seconds * 1e3:.1f}" for seconds in self.delay_s)
        return (
            f"{self.num_streams} streams: {self.passes_per_s:.0f} stream passes/s, "
            f"{self.tokens_per_s:.0f} tokens/s; a Ping between them is answered after {p50} ms "
            f"(median), {p99} ms (p99), {most} ms (most); coordinator busy "
            f"{self.coordinator_busy:.0%} of its core; {self.num_wrong} wrong texts"
            + ("" if self.is_probe_first else " (Pings wait for their core)")
        )


async def measure(
    num_streams: int, seconds: float, *, per_target: int, gamma: int, pass_ms: float
) -> Carried:
    """Run num_streams streams for some seconds after all have begun, per_target on each target.

    pass_ms: what a pass of a target takes; a draft node's takes half of that. gamma: guesses that a
    pass takes at most. The coordinator has the first core for itself where there are two; all else
    shares the others.
    """
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[1:]) or set(cores))
    try:
        num_targets = -(-num_streams // per_target)
        limits = num_streams, per_target
        return await _beside(cores[0], num_targets, limits, seconds, gamma, pass_ms)
    finally:
        os.sched_setaffinity(0, set(cores))


async def _beside(
    core: int,
    num_targets: int,
    limits: tuple[int, int],
    seconds: float,
    gamma: int,
    pass_ms: float,
) -> Carried:
    """The coordinator on a core, its nodes and clients where this process is.

    limits: streams in all, and those that a target or a draft node takes.
    """
    num_streams, per_target = limits
    with tempfile.TemporaryDirectory(prefix="airdraft-scale-") as folder:
        endpoint = f"ipc://{folder}/mesh.sock"
        async with contextlib.AsyncExitStack() as stack:
            coordinator = await stack.enter_async_context(
                running("nodes.cli", "coordinator", "--listen", endpoint, core=core)
            )
            # Before there is any load: a process takes long to start beside that.
            asking = "bench.live.probe", endpoint, str(seconds)
            probe = await stack.enter_async_context(running(*asking, piped=True))
            for number in range(num_targets):
                for role, ms in (("target", pass_ms), ("draft", pass_ms / 2)):
                    told = role, endpoint, f"{role}-{number}", str(ms), str(per_target)
                    await stack.enter_async_context(running("bench.live.light_nodes", *told))
            context = stack.enter_context(ZmqContext())
            asked = _streams(
                context, endpoint, 2 * num_targets, num_streams, gamma, min(_CHOICES, per_target)
            )
            counts = await stack.enter_async_context(asked)
            return await _measure(counts, num_streams, probe, coordinator.pid)


@contextlib.asynccontextmanager
async def running(
    module: str, *arguments: str, core: int | None = None, piped: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A module that runs. piped: its standard streams are here."""
    pipe = asyncio.subprocess.PIPE if piped else None
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdin=pipe,
        stdout=pipe or asyncio.subprocess.DEVNULL,
        limit=_LONGEST_LINE,
    )
    if core is not None:
        os.sched_setaffinity(process.pid, {core})
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@dataclass(slots=True)
class _Counts:
    """What clients were sent. wrong: notices whose tokens are not those of law 1."""

    passes: int = 0
    tokens: int = 0
    wrong: int = 0


@contextlib.asynccontextmanager
async def _streams(
    context: ZmqContext,
    endpoint: str,
    num_nodes: int,
    num_streams: int,
    gamma: int,
    most_choices: int,
) -> AsyncIterator[_Counts]:
    """Streams that run until the end, after all have begun and fallen into step.

    most_choices: of a request; they stay together where they fit.
    """
    counts = _Counts()
    begun: set[tuple[int, int]] = set()
    client = Client(context.connect(endpoint), endpoint=endpoint, join_timeout_s=_START_LIMIT_S)
    all_begun = asyncio.Event()

    async def ask(number: int, num_choices: int) -> None:
        options = GenerateOptions(
            max_tokens=_MAX_TOKENS,
            num_choices=num_choices,
            temperature=0.8,
            seed=number,
            gamma=gamma,
            ignore_eog=True,
        )
        prompt = (5 + number,)
        keys = [key_of(prompt, number, choice) for choice in range(num_choices)]
        async for event in client.generate(prompt, options):
            if isinstance(event, TokensNotice):
                counts.passes += 1
                counts.tokens += len(event.token_ids)
                key, first = keys[event.choice], len(prompt) + event.position
                law = tuple(token_at(key, first + k) for k in range(len(event.token_ids)))
                counts.wrong += law != event.token_ids
                begun.add((number, event.choice))
                if len(begun) == num_streams:
                    all_begun.set()

    async with asyncio.TaskGroup() as group:
        serving = [group.create_task(client.run())]
        await until_joined(client, num_nodes)
        for number in range(-(-num_streams // most_choices)):
            some = min(most_choices, num_streams - number * most_choices)
            serving.append(group.create_task(ask(number, some)))
        async with asyncio.timeout(_START_LIMIT_S):
            await all_begun.wait()
        await asyncio.sleep(_SETTLE_S)
        yield counts
        for task in serving:
            task.cancel()


async def _measure(
    counts: _Counts, num_streams: int, probe: asyncio.subprocess.Process, coordinator: int
) -> Carried:
    assert probe.stdin is not None
    assert probe.stdout is not None
    await probe.stdout.readline()
    before, busy_s, started = replace(counts), _cpu_s(coordinator), time.perf_counter()
    probe.stdin.write(b"\n")
    probed = json.loads(await probe.stdout.readline())
    took_s = time.perf_counter() - started
    busy_s = _cpu_s(coordinator) - busy_s
    p50, p99, most = np.quantile(probed["delays_s"], [0.5, 0.99, 1.0])
    return Carried(
        num_streams,
        (counts.passes - before.passes) / took_s,
        (counts.tokens - before.tokens) / took_s,
        (float(p50), float(p99), float(most)),
        busy_s / took_s,
        counts.wrong,
        is_probe_first=probed["is_first"],
    )


async def until_joined(client: Client, num_nodes: int) -> None:
    """Wait until so many nodes are in the mesh. Raises TimeoutError."""
    async with asyncio.timeout(_START_LIMIT_S):
        present = 0
        while present < num_nodes:
            await asyncio.sleep(_POLL_S)
            present = len((await client.nodes()).nodes)


def _cpu_s(pid: int) -> float:
    """Seconds of processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
