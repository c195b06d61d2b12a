"""Systems on the same requests in turns, A B then B A: speed drifts less within a turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from bench import pairs
from bench.harness.processes import cpu_s, tree
from bench.load.asking import Endpoint, ask
from bench.load.figures import Asked, Figures, figures_of
from bench.load.workloads import Workload

# Work that one system does after its answers must not slow the next one.
_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Load:
    """A load: num_streams requests at once, and num_groups times that in a turn, one group after
    the other."""

    workload: Workload
    num_streams: int
    num_groups: int = 1

    def prompt(self, index: int) -> tuple[str, str]:
        """Returns a prompt and its schema, or "", by a number that grows without end."""
        at = index % len(self.workload.prompts)
        return self.workload.prompts[at], self.workload.schemas[at] if self.workload.schemas else ""


@dataclass(frozen=True, slots=True)
class Side:
    """A system that serves. pid: the process that, with its descendants, makes up the system."""

    name: str
    endpoint: Endpoint
    pid: int


async def _ask(side: Side, load: Load, index: int) -> Asked:
    prompt, schema = load.prompt(index)
    length = load.workload.max_tokens
    return await ask(side.endpoint, prompt, max_tokens=length, schema=schema)


async def run_once(side: Side, load: Load, turn: int) -> Figures:
    """Send the requests of a turn, the same ones to every side."""
    before = cpu_s(tree(side.pid))
    groups = []
    for number in range(turn * load.num_groups, (turn + 1) * load.num_groups):
        indices = range(number * load.num_streams, (number + 1) * load.num_streams)
        groups.append(await asyncio.gather(*(_ask(side, load, index) for index in indices)))
    return figures_of(groups, cpu_s(tree(side.pid)) - before)


async def in_turns(sides: Sequence[Side], load: Load, num_turns: int) -> list[tuple[Figures, ...]]:
    """Returns the figures of each turn, in the order of the sides.

    Each side first warms up with one more turn, with other prompts if the workload has enough.
    """
    for side in sides:
        await run_once(side, load, -1)

    async def one(side: Side, turn: int) -> Figures:
        figures = await run_once(side, load, turn)
        await asyncio.sleep(_PAUSE_S)
        return figures

    return await pairs.in_turns(num_turns, *(partial(one, side) for side in sides))


async def tokens_within(side: Side, load: Load, turn: int, seconds: float) -> int:
    """Returns how many tokens come within some seconds. Each stream asks again after each answer.

    Every turn asks other prompts, if the workload has enough.
    """
    began = time.perf_counter()

    async def stream(number: int) -> int:
        index, num_tokens = turn + number, 0
        while time.perf_counter() < began + seconds:
            answer = await _ask(side, load, index)
            num_tokens += sum(at <= began + seconds for at in answer.token_s)
            index += load.num_streams
        return num_tokens

    return sum(await asyncio.gather(*map(stream, range(load.num_streams))))
