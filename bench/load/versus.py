"""Two systems on the same requests in turns, A B then B A: machines drift, pairs do less."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.load.asking import Endpoint, ask
from bench.load.figures import Asked, Figures, Slo, figures_of
from bench.load.loops import closed_loop, open_loop
from bench.load.processes import cpu_s, tree
from bench.load.workloads import Workload

# What a chat's reader is content with: to begin within two seconds, at ten tokens a second.
SLO = Slo(first_token_s=2.0, each_token_s=0.1)
# Of one request; whoever takes longer would take hours for all turns of a table.
SLOW_S = 10.0


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
    """A system that serves, and the processes whose trees are all of it."""

    name: str
    endpoint: Endpoint
    pids: tuple[int, ...]

    def cpu_s(self) -> float:
        return sum(cpu_s(tree(pid)) for pid in self.pids)


async def run_once(side: Side, load: Load, turn: int) -> Figures:
    """The turn-th requests of a workload, the same ones for every side."""
    workload = load.workload
    at = turn * load.num_streams % len(workload.prompts)
    prompts = workload.prompts[at:] + workload.prompts[:at]
    schemas = dict(zip(workload.prompts, workload.schemas, strict=False))

    async def one(prompt: str, seed: int) -> Asked:
        return await ask(
            side.endpoint,
            prompt,
            max_tokens=workload.max_tokens,
            temperature=load.temperature,
            seed=seed,
            schema=schemas.get(prompt, ""),
        )

    before = side.cpu_s()
    if load.times:
        asked = await open_loop(one, prompts, load.times)
    else:
        asked = await closed_loop(one, prompts, load.num_streams, 1)
    return figures_of(asked, SLO, side.cpu_s() - before)


async def in_turns(sides: Sequence[Side], load: Load, num_turns: int) -> list[list[Figures | None]]:
    """Figures of each turn, in the order of the sides; each side warms up with one more turn first,
    whose prompts are not those of the others where the workload has enough of them.

    None where a side had no turn: one that takes longer than SLOW_S for a single request has one
    turn, and its warm-up was that request.
    """
    alone = replace(load, num_streams=1, times=())
    slow = set()
    for side in sides:
        if (await run_once(side, alone, -1)).seconds > SLOW_S:
            slow.add(side.name)
        else:
            await run_once(side, load, -1)
    found: list[list[Figures | None]] = []
    for turn in range(num_turns):
        made: dict[str, Figures] = {}
        for side in sides if turn % 2 else sides[::-1]:
            if turn and side.name in slow:
                continue
            made[side.name] = await run_once(side, load, turn)
            # What one system does after its answers is not to be the next one's burden.
            await asyncio.sleep(0.2)
        found.append([made.get(side.name) for side in sides])
    return found
