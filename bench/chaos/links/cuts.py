"""Measure how soon the coordinator notices a cut link of a draft node, and how fast it heals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from bench.chaos.links.clients import Heard
from bench.chaos.links.mesh import START_LIMIT_S, LinkMesh, link_mesh, until
from bench.chaos.links.weather import num_sent
from bench.chaos.quantiles import quantiles
from bench.emulate.cell import DOWN, UP, Direction
from bench.emulate.open import LiveCell, Means, open_cell
from bench.emulate.profiles import BOTH, GOOD, cell_of
from bench.emulate.tun import HUB

NOTICED_WITHIN_S = 3.0
HEALED_WITHIN_S = 5.0
# The directions that are cut. With half-open, the node is restarted over another path meanwhile.
KINDS: dict[str, tuple[Direction, ...]] = {
    "blackout": BOTH,
    "one-way up": (UP,),
    "one-way down": (DOWN,),
    "half-open": BOTH,
}
_HALF_OPEN = "half-open"
_NODE, _PLACES = "draft-0", ("here", "there")
_LIMIT_S, _STAYS_S, _LIGHT_S = 120.0, 1.0, 2.0


@dataclass(slots=True)
class CutFigures:
    """Results of one kind of cut.

    noticed_s: from each cut until the coordinator logs that the node left. healed_s: from mending,
    or with half-open from the new process's first packet, until the node is back and stays.
    """

    kind: str
    noticed_s: list[float] = field(default_factory=list)
    healed_s: list[float] = field(default_factory=list)
    heard: Heard = field(default_factory=Heard)

    def faults(self) -> list[str]:
        found = []
        if self.kind != _HALF_OPEN and max(self.noticed_s) > NOTICED_WITHIN_S:
            found.append(f"noticed after {max(self.noticed_s):.1f} s")
        if max(self.healed_s) > HEALED_WITHIN_S:
            found.append(f"healed after {max(self.healed_s):.1f} s")
        if not self.heard.num_tokens:
            found.append("no token was received, so the run shows nothing")
        found += self.heard.faults()
        return [f"{self.kind}: {fault}" for fault in found]

    def row(self) -> str:
        noticed, healed = (
            " ".join(f"{s:.2f}" for s in quantiles(values))
            for values in (self.noticed_s, self.healed_s)
        )
        num_wrong = self.heard.num_wrong
        return f"| {self.kind} | {len(self.healed_s)} | {noticed} | {healed} | {num_wrong} |"


HEAD = "| cut | times | noticed s, p50 p99 max | healed s, p50 p99 max | texts wrong |\n|" + (
    "---|" * 5
)


async def run_cuts(
    kinds: Sequence[str], times: int, seed: int, means: Means, report: Callable[[str], None]
) -> list[CutFigures]:
    """Run each kind of cut `times` times, in one mesh with streams under way.

    Raises NamespacesError if TUN devices are required and not allowed.
    """
    random = Random(seed)
    found = []
    cell = cell_of(dict.fromkeys(_PLACES, GOOD), seed)
    async with open_cell(cell, means=means) as (live, kind), link_mesh(live) as mesh:
        report(f"*emulated* ({kind}), seed {seed}\n\n{HEAD}")
        await mesh.start_node("target", "target", HUB)
        await mesh.start_node("draft", _NODE, _PLACES[0])
        await mesh.are_in(["target", _NODE])
        clients = await mesh.start_clients("clients", HUB, 4, 0)
        at = 0
        for name in kinds:
            figures = CutFigures(name)
            for _ in range(times):
                # The random part spreads cuts over the interval between two heartbeats.
                await asyncio.sleep(_LIGHT_S + random.random())
                at = await _cut(mesh, live, figures, at)
            figures.heard = await clients.heard()
            report(figures.row())
            found.append(figures)
    return found


async def _cut(mesh: LinkMesh, live: LiveCell, figures: CutFigures, at: int) -> int:
    """Cut the node's link at place index `at` once; return the node's place index afterwards."""
    place, ways = _PLACES[at], KINDS[figures.kind]
    begin = mended = mesh.now()
    live.cut(place, ways)
    if figures.kind == _HALF_OPEN:
        # The cut link swallows the packets by which the kernel ends the connection.
        await mesh.kill(_NODE)
        at = 1 - at
        before = num_sent(live, _PLACES[at])
        await mesh.start_node("draft", _NODE, _PLACES[at])
        await until(
            lambda: num_sent(live, _PLACES[at]) > before or None,
            START_LIMIT_S,
            f"{_NODE} has sent nothing from its other place",
        )
        mended = mesh.now()
    left = await mesh.has_left(_NODE, begin, _LIMIT_S)
    figures.noticed_s.append(left.at - begin)
    if figures.kind != _HALF_OPEN:
        live.mend(place, ways)
        mended = mesh.now()
    figures.healed_s.append(max(0.0, await _stays(mesh) - mended))
    live.mend(place, ways)
    return at


async def _stays(mesh: LinkMesh) -> float:
    """Wait until the node is a member and stays one; return the time at which it joined."""
    while True:
        await mesh.are_in([_NODE], _LIMIT_S)
        joined = mesh.log.changes[-1]
        await asyncio.sleep(_STAYS_S)
        if mesh.log.changes[-1] is joined:
            return joined.at
