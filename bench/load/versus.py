"""Systems on the same requests in turns, A B then B A: speed drifts less within a turn."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from bench import pairs
from bench.harness.processes import cpu_s, tree
from bench.load.asking import Endpoint, ask
from bench.load.figures import Asked, Figures, Slo, figures_of
from bench.load.workloads import Workload

# Enough for a reader of a chat: it begins within two seconds and has ten tokens a second.
SLO = Slo(first_token_s=2.0, each_token_s=0.1)
# Longest request in seconds; a slower system would take hours for all turns of a table.
SLOW_S = 10.0
Ask = Callable[[str], Awaitable[Asked]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A load: num_streams requests at once or, if `times` is not empty, requests at these times."""

    workload: Workload
    num_streams: int
    times: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Side:
    """A system that serves. pids: processes that, with their descendants, make up the system."""

    name: str
    endpoint: Endpoint
    pids: tuple[int, ...]

    def cpu_s(self) -> float:
        return sum(cpu_s(tree(pid)) for pid in self.pids)


async def run_once(side: Side, load: Load, turn: int) -> Figures:
    """Send the turn-th requests of a workload, the same ones to every side."""
    workload = load.workload
    at = turn * load.num_streams % len(workload.prompts)
    prompts = workload.prompts[at:] + workload.prompts[:at]
    schemas = dict(zip(workload.prompts, workload.schemas, strict=False))

    async def one(prompt: str) -> Asked:
        schema = schemas.get(prompt, "")
        return await ask(side.endpoint, prompt, max_tokens=workload.max_tokens, schema=schema)

    before = side.cpu_s()
    requests = await ask_at(one, prompts, load.times or (0.0,) * load.num_streams)
    return figures_of(requests, SLO, side.cpu_s() - before)


async def in_turns(
    sides: Sequence[Side], load: Load, num_turns: int
) -> list[tuple[Figures | None, ...]]:
    """Return the figures of each turn, in the order of the sides; None if a side had no turn.

    Each side first warms up with one more turn, with other prompts if the workload has enough. A
    side that takes longer than SLOW_S for a single request has that as warm-up and only one turn.
    """
    alone = replace(load, num_streams=1, times=())
    slow = set()
    for side in sides:
        if (await run_once(side, alone, -1)).seconds > SLOW_S:
            slow.add(side.name)
        else:
            await run_once(side, load, -1)

    async def one(side: Side, turn: int) -> Figures | None:
        if turn and side.name in slow:
            return None
        figures = await run_once(side, load, turn)
        # Work that one system does after its answers must not slow the next one.
        await asyncio.sleep(0.2)
        return figures

    return await pairs.in_turns(num_turns, *(partial(one, side) for side in sides))


def arrivals(rate_per_s: float, seconds: float, seed: int) -> list[float]:
    """Return times of a Poisson process from 0 on; a seed gives every system the same times."""
    source = random.Random(seed)
    gaps_s = (source.expovariate(rate_per_s) for _ in itertools.count())
    return list(itertools.takewhile(lambda at: at < seconds, itertools.accumulate(gaps_s)))


async def ask_at(ask: Ask, prompts: Sequence[str], times: Sequence[float]) -> list[Asked]:
    """Send requests at the given times, however many are still being answered."""
    began = time.perf_counter()

    async def one(index: int, at: float) -> Asked:
        await asyncio.sleep(max(0.0, at - (time.perf_counter() - began)))
        return await ask(prompts[index % len(prompts)])

    return list(await asyncio.gather(*(one(index, at) for index, at in enumerate(times))))
