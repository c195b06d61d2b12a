"""The load that one coordinator carries on a core of its own, with nodes that look tokens up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.messages import TokensNotice
from bench.harness.fleet import COORDINATOR, Fleet, Setup, fleet
from bench.harness.processes import cpu_s
from bench.harness.report import quantiles
from bench.live.light_nodes import key_of, token_at
from bench.options import at_least, streams_option

_CHOICES = 64
# More than a stream decodes during a measurement.
_MAX_TOKENS = 16_000
_START_LIMIT_S = 120.0
_SETTLE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """Figures of one load. passes_per_s: passes, counted for each stream alone. delay_s: p50, p99
    and greatest delay of replies to Pings among the other messages.

    coordinator_busy, others_busy: used parts of the coordinator's core and of the cores that nodes
    and clients share. If the latter is nearly 1, tokens are limited by the nodes and clients.
    num_wrong: notices with tokens other than those of law 1. is_probe_first: whether the process
    that sends Pings had priority on its core; otherwise delays include waits for the core.
    """

    num_streams: int
    passes_per_s: float
    tokens_per_s: float
    delay_s: tuple[float, float, float]
    coordinator_busy: float
    others_busy: float
    num_wrong: int
    is_probe_first: bool

    def __str__(self) -> str:
        p50, p99, most = (f"{seconds * 1e3:.1f}" for seconds in self.delay_s)
        late = "" if self.is_probe_first else " (delays include waits of the Pings for a core)"
        return (
            f"{self.num_streams} streams: {self.passes_per_s:.0f} stream passes/s, "
            f"{self.tokens_per_s:.0f} tokens/s; a Ping is answered after {p50} ms (median), "
            f"{p99} ms (p99), {most} ms (most); coordinator busy {self.coordinator_busy:.0%} of "
            f"its core, nodes and clients {self.others_busy:.0%} of theirs; {self.num_wrong} wrong "
            f"texts{late}"
        )


@click.command("scale")
@streams_option("16,64,256")
@at_least("--seconds", 10.0)
@click.option("--gamma", default=4, type=click.IntRange(1, 16))
@at_least("--pass-ms", 40.0, "Duration of a target's pass in ms.")
@at_least("--per-target", 32, "Streams of each target.")
def scale_command(streams: list[int], **options: Any) -> None:
    """Measure one coordinator's load on one core.

    Its nodes run on the other cores and look their tokens up instead of computing them.

    \b
    Example:
      python -m bench live scale --streams 256 --seconds 5
    """
    num_wrong = 0
    for count in streams:
        carried = asyncio.run(measure(count, **options))
        click.echo(str(carried))
        num_wrong += carried.num_wrong
    sys.exit(1 if num_wrong else 0)


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
    num_targets = -(-num_streams // per_target)
    # A fresh process has its core before it starts threads.
    setup = Setup(num_targets=0, num_drafts=0, over="ipc", fresh=True)
    try:
        async with fleet(setup) as mesh:
            coordinator = mesh.process(COORDINATOR).pid
            os.sched_setaffinity(coordinator, {cores[0]})
            # The probe starts before the load, because starting beside it takes long.
            mesh.start_module("probe", "bench.live.probe", seconds)
            for number in range(num_targets):
                for role, ms in (("target", pass_ms), ("draft", pass_ms / 2)):
                    name = f"{role}-{number}"
                    mesh.start_module(name, "bench.live.light_nodes", role, name, ms, per_target)
            names = [f"{role}-{k}" for k in range(num_targets) for role in ("target", "draft")]
            await mesh.wait_joined(*names, limit_s=_START_LIMIT_S)
            async with mesh.clients(1) as (client,):
                most_choices = min(_CHOICES, per_target)
                async with _streams(client, num_streams, gamma, most_choices) as counts:
                    return await _measure(counts, num_streams, mesh, names)
    finally:
        os.sched_setaffinity(0, set(cores))


@dataclass(slots=True)
class _Counts:
    """Counts of what clients received. wrong: notices with tokens other than those of law 1."""

    passes: int = 0
    tokens: int = 0
    wrong: int = 0


@contextlib.asynccontextmanager
async def _streams(
    client: MeshClient, num_streams: int, gamma: int, most_choices: int
) -> AsyncIterator[_Counts]:
    """Run streams until the end of the block, which begins once all have begun and settled.

    most_choices: most choices of a request. Choices of a request share a target if they fit.
    """
    counts = _Counts()
    begun: set[tuple[int, int]] = set()
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
        asking = []
        for number in range(-(-num_streams // most_choices)):
            some = min(most_choices, num_streams - number * most_choices)
            asking.append(group.create_task(ask(number, some)))
        async with asyncio.timeout(_START_LIMIT_S):
            await all_begun.wait()
        await asyncio.sleep(_SETTLE_S)
        yield counts
        for task in asking:
            task.cancel()


async def _measure(counts: _Counts, num_streams: int, mesh: Fleet, names: Sequence[str]) -> Carried:
    """names: the nodes, which share cores with this process. The probe does so, too, but has ended
    when processor time is read again."""
    coordinator = [mesh.process(COORDINATOR).pid]
    others = [os.getpid(), *(mesh.process(name).pid for name in names)]
    await mesh.wait_printed("probe", _START_LIMIT_S)
    before, started = replace(counts), time.perf_counter()
    busy_s, others_s = cpu_s(coordinator), cpu_s(others)
    mesh.expect_end("probe")
    probe = mesh.process("probe")
    probe.signal(signal.SIGUSR1)
    await probe.ended.wait()
    found = json.loads(mesh.log("probe").read_text().splitlines()[-1])
    took_s = time.perf_counter() - started
    busy_s, others_s = cpu_s(coordinator) - busy_s, cpu_s(others) - others_s
    return Carried(
        num_streams=num_streams,
        passes_per_s=(counts.passes - before.passes) / took_s,
        tokens_per_s=(counts.tokens - before.tokens) / took_s,
        delay_s=quantiles(found["delays_s"]),
        coordinator_busy=busy_s / took_s,
        others_busy=others_s / took_s / len(os.sched_getaffinity(0)),
        num_wrong=counts.wrong,
        is_probe_first=found["is_first"],
    )
