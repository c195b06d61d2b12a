"""The load that one coordinator carries on a core of its own, with nodes that look tokens up."""

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
from bench.live.relay import Traffic
from mesh.zmq_transport import ZmqContext
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions
from nodes.messages import TokensNotice

_CHOICES = 64
# More than a stream decodes during a measurement.
_MAX_TOKENS = 16_000
_POLL_S = 0.05
_START_LIMIT_S = 120.0
_SETTLE_S = 2.0
_LONGEST_LINE = 1 << 26


@dataclass(frozen=True, slots=True)
class Carried:
    """Figures of one load. passes_per_s: passes, counted for each stream alone. delay_s: p50, p99
    and greatest delay of replies to Pings among the other messages.

    relay_s: the same of a bare relay under as many messages of the same sizes, right afterwards.
    num_wrong: notices with tokens other than those of law 1. is_probe_first: whether the process
    that sends Pings had priority on its core; otherwise delays include waits for the core.
    """

    num_streams: int
    passes_per_s: float
    tokens_per_s: float
    delay_s: tuple[float, float, float]
    relay_s: tuple[float, float, float]
    coordinator_busy: float
    num_wrong: int
    is_probe_first: bool = False

    def __str__(self) -> str:
        p50, p99, most = (f"{seconds * 1e3:.1f}" for seconds in self.delay_s)
        bare = " / ".join(f"{seconds * 1e3:.1f}" for seconds in self.relay_s)
        return (
            f"{self.num_streams} streams: {self.passes_per_s:.0f} stream passes/s, "
            f"{self.tokens_per_s:.0f} tokens/s; a Ping is answered after {p50} ms "
            f"(median), {p99} ms (p99), {most} ms (most), by a bare relay after {bare} ms; "
            f"coordinator busy "
            f"{self.coordinator_busy:.0%} of its core; {self.num_wrong} wrong texts"
            + ("" if self.is_probe_first else " (delays include waits of the Pings for a core)")
        )


async def measure(
    num_streams: int, seconds: float, *, per_target: int, gamma: int, pass_ms: float
) -> Carried:
    """Run num_streams streams for some seconds after all have begun, per_target on each target.

    pass_ms: duration of a target's pass; a draft node's pass takes half. gamma: most guesses
    of a pass. With two or more cores the coordinator has the first one alone, and all other
    processes share the rest.
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
    """Run the coordinator on a core, and its nodes and clients on this process's cores.

    limits: number of all streams, and most streams of a target or draft node.
    """
    num_streams, per_target = limits
    with tempfile.TemporaryDirectory(prefix="airdraft-scale-") as folder:
        endpoint = f"ipc://{folder}/mesh.sock"
        async with contextlib.AsyncExitStack() as stack:
            coordinator = await stack.enter_async_context(
                running("nodes.cli", "coordinator", "--listen", endpoint, core=core)
            )
            # The probe starts before the load, because starting beside it takes long.
            probing = "bench.live.probe", endpoint, str(seconds)
            probe = await stack.enter_async_context(running(*probing, piped=True))
            for number in range(num_targets):
                for role, ms in (("target", pass_ms), ("draft", pass_ms / 2)):
                    arguments = role, endpoint, f"{role}-{number}", str(ms), str(per_target)
                    await stack.enter_async_context(running("bench.live.light_nodes", *arguments))
            context = stack.enter_context(ZmqContext())
            all_streams = _streams(
                context, endpoint, 2 * num_targets, num_streams, gamma, min(_CHOICES, per_target)
            )
            counts = await stack.enter_async_context(all_streams)
            carried = await _measure(counts, num_streams, probe, coordinator.pid)
        traffic = Traffic(num_targets, min(per_target, num_streams), gamma, pass_ms / 1e3)
        relay_s = await _relayed(core, f"ipc://{folder}/relay.sock", traffic, seconds)
        return replace(carried, relay_s=relay_s)


async def _relayed(
    core: int, endpoint: str, traffic: Traffic, seconds: float
) -> tuple[float, float, float]:
    """Returns p50, p99 and the greatest delay of a bare relay on the core under this traffic."""
    numbers = traffic.num_targets, traffic.num_streams, traffic.gamma, traffic.pass_s
    module = "bench.live.relay"
    async with contextlib.AsyncExitStack() as stack:
        for arguments in (["relay", endpoint], ["traffic", endpoint, *map(str, numbers)]):
            is_relay = arguments[0] == "relay"
            process = await stack.enter_async_context(
                running(module, *arguments, core=core if is_relay else None, piped=True)
            )
            assert process.stdout is not None
            await process.stdout.readline()
        probe = await stack.enter_async_context(
            running(module, "probe", endpoint, str(seconds), piped=True)
        )
        assert probe.stdout is not None
        return _quantiles(json.loads(await probe.stdout.readline())["delays_s"])


@contextlib.asynccontextmanager
async def running(
    module: str, *arguments: str, core: int | None = None, piped: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a module as a process. piped: connect its standard input and output to pipes."""
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
    """Counts of what clients received. wrong: notices with tokens other than those of law 1."""

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
    """Run streams until the end of the block, which begins once all have begun and settled.

    most_choices: most choices of a request. Choices of a request share a target if they fit.
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
    return Carried(
        num_streams,
        (counts.passes - before.passes) / took_s,
        (counts.tokens - before.tokens) / took_s,
        _quantiles(probed["delays_s"]),
        (0.0, 0.0, 0.0),
        busy_s / took_s,
        counts.wrong,
        is_probe_first=probed["is_first"],
    )


def _quantiles(delays_s: list[float]) -> tuple[float, float, float]:
    """Returns p50, p99 and the greatest."""
    p50, p99, most = np.quantile(delays_s, [0.5, 0.99, 1.0])
    return float(p50), float(p99), float(most)


async def until_joined(client: Client, num_nodes: int) -> None:
    """Wait until num_nodes nodes are in the mesh. Raises TimeoutError."""
    async with asyncio.timeout(_START_LIMIT_S):
        present = 0
        while present < num_nodes:
            await asyncio.sleep(_POLL_S)
            present = len((await client.nodes()).nodes)


def _cpu_s(pid: int) -> float:
    """Return the seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
