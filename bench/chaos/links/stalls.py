"""How long a client waits when its target is killed or cut off, and another one is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from bench.chaos.links.clients import Heard
from bench.chaos.links.log import quantiles
from bench.chaos.links.mesh import LinkMesh, link_mesh
from bench.emulate.open import LiveCell, Means, open_cell
from bench.emulate.profiles import BOTH, GOOD, cell_of
from bench.emulate.tun import HUB

STALL_WITHIN_S = 3.0
HOWS = ("kill", "cut")
_TARGETS = ("target-0", "target-1")
_LIGHT_S, _AFTER_S, _LIMIT_S = 5.0, 8.0, 20.0
# Of a stream that was not on the target, between two notices.
_USUAL_S = 0.5


@dataclass(slots=True)
class StallFigures:
    """lost_at: when targets were lost. heard: by all streams, from before the first to the end."""

    how: str
    num_streams: int
    lost_at: list[float] = field(default_factory=list)
    heard: Heard = field(default_factory=Heard)

    @property
    def stalls_s(self) -> list[float]:
        """Of each stream that waited, in each event, from the loss to its next token."""
        return [
            at - lost_at
            for lost_at in self.lost_at
            for at, gap_s in self.heard.gaps_s
            if at - gap_s <= lost_at < at and at - lost_at > _USUAL_S
        ]

    def faults(self) -> list[str]:
        found, stalls_s = [], self.stalls_s
        if not stalls_s:
            found.append("no stream noticed anything: nothing was shown")
        elif (p99 := quantiles(stalls_s)[1]) > STALL_WITHIN_S:
            found.append(f"p99 of the stall is {p99:.1f} s")
        if self.heard.num_wrong:
            found.append(f"{self.heard.num_wrong} wrong texts")
        if self.heard.failures:
            found.append(f"requests failed: {self.heard.failures}")
        if (waits_s := max(self.heard.waits_s, default=0.0)) > _AFTER_S:
            found.append(f"a stream has waited for {waits_s:.1f} s at the end")
        return [f"{self.how}: {fault}" for fault in found]

    def row(self) -> str:
        stalls_s = self.stalls_s
        most = " ".join(f"{s:.2f}" for s in quantiles(stalls_s))
        return (
            f"| {self.how} | {len(self.lost_at)} "
            f"| {len(stalls_s)} of {len(self.lost_at) * self.num_streams} | {most} "
            f"| {self.heard.num_wrong} | {self.heard.num_failed} |"
        )


HEAD = (
    "| a target is | times | streams that waited | stall s, p50 p99 most | texts wrong | failed |\n"
    "|---|---|---|---|---|---|"
)


async def run_stalls(
    hows: Sequence[str],
    times: int,
    streams: int,
    seed: int,
    means: Means,
    report: Callable[[str], None],
) -> list[StallFigures]:
    """Targets are lost in turns, each behind a good link of its own; clients are at the hub.

    Raises NamespacesError where TUN devices are asked for and not allowed.
    """
    random = Random(seed)
    found = []
    cell = cell_of(dict.fromkeys(_TARGETS, GOOD), seed)
    async with open_cell(cell, means=means) as (live, kind), link_mesh(live) as mesh:
        report(f"*emulated* ({kind}), seed {seed}, {streams} streams\n\n{HEAD}")
        for name in _TARGETS:
            await mesh.start_node("target", name, name)
        await mesh.are_in(list(_TARGETS))
        clients = await mesh.start_clients("clients", HUB, streams, 0)
        for how in hows:
            figures = StallFigures(how, streams)
            await clients.heard()
            for number in range(times):
                await asyncio.sleep(_LIGHT_S + random.random())
                figures.lost_at.append(await _lose(mesh, live, how, _TARGETS[number % 2]))
                await asyncio.sleep(_AFTER_S)
                await _bring_back(mesh, live, how, _TARGETS[number % 2])
            await asyncio.sleep(_LIGHT_S)
            figures.heard = await clients.heard()
            report(figures.row())
            found.append(figures)
    return found


async def _lose(mesh: LinkMesh, live: LiveCell, how: str, name: str) -> float:
    if how == "kill":
        return await mesh.kill(name)
    at = mesh.now()
    live.cut(name, BOTH)
    return at


async def _bring_back(mesh: LinkMesh, live: LiveCell, how: str, name: str) -> None:
    if how == "kill":
        at = await mesh.start_node("target", name, name)
        await mesh.has_joined(name, at)
    else:
        live.mend(name, BOTH)
        await mesh.are_in([name], _LIMIT_S)
