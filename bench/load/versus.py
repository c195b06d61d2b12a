"""Two systems on the same requests in turns, A B then B A: machines drift, pairs do less."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from bench.load.asking import Endpoint, ask
from bench.load.figures import Asked, Figures, Slo, figures_of
from bench.load.loops import closed_loop, open_loop
from bench.load.processes import cpu_s, tree
from bench.load.workloads import Workload

# What a chat's reader is content with: to begin within two seconds, at ten tokens a second.
SLO = Slo(first_token_s=2.0, each_token_s=0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """num_streams in a closed loop of one request each; or, where there are some, arrivals at these
    times.
    """

    workload: Workload
    num_streams: int
    times: tuple[float, ...] = ()
    temperature: float = 0.0


@dataclass(frozen=True, slots=True)
class Side:
    """A system that serves, and the process whose tree is all of it."""

    name: str
    endpoint: Endpoint
    pid: int


async def run_once(side: Side, load: Load, turn: int) -> Figures:
    """The turn-th requests of a workload, the same ones for every side."""
    workload = load.workload
    at = turn * load.num_streams % len(workload.prompts)
    prompts = workload.prompts[at:] + workload.prompts[:at]

    async def one(prompt: str, seed: int) -> Asked:
        return await ask(
            side.endpoint,
            prompt,
            max_tokens=workload.max_tokens,
            temperature=load.temperature,
            seed=seed,
        )

    before = cpu_s(tree(side.pid))
    if load.times:
        asked = await open_loop(one, prompts, load.times)
    else:
        asked = await closed_loop(one, prompts, load.num_streams, 1)
    return figures_of(asked, SLO, cpu_s(tree(side.pid)) - before)


async def in_turns(sides: Sequence[Side], load: Load, num_turns: int) -> list[list[Figures]]:
    """Figures of each turn, in the order of the sides; each side warms up with a turn first."""
    for side in sides:
        await run_once(side, load, 0)
    found: list[list[Figures]] = []
    for turn in range(num_turns):
        made: dict[str, Figures] = {}
        for side in sides if turn % 2 else sides[::-1]:
            made[side.name] = await run_once(side, load, turn)
            # What one system does after its answers is not to be the next one's burden.
            await asyncio.sleep(0.2)
        found.append([made[side.name] for side in sides])
    return found
