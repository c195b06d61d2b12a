"""Run a mesh whose draft node and some clients connect over a faulty TCP proxy, toxic by toxic."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field

from bench.chaos.links.clients import Heard
from bench.chaos.links.mesh import LinkMesh, link_mesh
from bench.chaos.quantiles import quantiles
from bench.emulate.toxics import HEALTHY, Toxic, ToxicCell, toxic_cell
from bench.emulate.tun import HUB

_FAR = "far"
_NODE = "draft-0"
_STREAMS = 4
_TURN_S = 8.0
# The coordinator plans every second once there are guesses. The first plan starts a thread, which
# must be counted before the toxic.
_PLAN_S = 3.0
_SETTLE_LIMIT_S = 120.0
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Held:
    """Resources of the coordinator's process."""

    threads: int
    descriptors: int

    @classmethod
    def of(cls, pid: int) -> Held:
        return cls(len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd")))


@dataclass(frozen=True, slots=True, kw_only=True)
class AilingFigures:
    """Results of one toxic.

    held: the coordinator's resources before and after the toxic, with the same members.
    num_left: departures of nodes. num_resets: connections that the proxy has reset.
    """

    toxic: Toxic
    seconds: float
    near: Heard
    far: Heard
    held: tuple[Held, Held]
    num_left: int
    num_resets: int
    notes: list[str] = field(default_factory=list)

    def faults(self) -> list[str]:
        found = list(self.notes)
        if num_wrong := self.near.num_wrong + self.far.num_wrong:
            found.append(f"{num_wrong} wrong texts")
        if self.near.failures:
            found.append(f"requests at the hub failed: {self.near.failures}")
        if not self.near.num_texts:
            found.append("no text was finished at the hub, so the run shows nothing")
        before, after = self.held
        if after.threads > before.threads or after.descriptors > before.descriptors:
            found.append(f"the coordinator held {before} before and {after} after")
        return [f"{self.toxic.name}: {fault}" for fault in found]

    def row(self) -> str:
        near, far = (
            " ".join(f"{s * 1e3:.0f}" for s in quantiles(heard.between_s))
            for heard in (self.near, self.far)
        )
        heard = self.near, self.far
        before, after = self.held
        return (
            f"| {self.toxic.name} | {sum(h.num_wrong for h in heard)}, "
            f"{sum(h.num_texts for h in heard)}, {sum(h.num_failed for h in heard)} "
            f"| {self.num_left} | {self.num_resets} | {near} | {far} "
            f"| {after.threads - before.threads:+}, {after.descriptors - before.descriptors:+} |"
        )


HEAD = (
    "| toxic | texts wrong, complete, failed | nodes that left | resets | near: ms between tokens, "
    "p50 p99 max | far | growth of threads, descriptors |\n|" + "---|" * 7
)


async def run_toxic(toxic: Toxic, seconds: float, seed: int) -> AilingFigures:
    """Run one toxic on all connections of a draft node and some clients, in a mesh of its own.

    With a toxic that delays ends of connections, the draft node is restarted every few seconds.
    """
    async with toxic_cell(HEALTHY, seed) as cell, link_mesh(cell) as mesh:
        await mesh.start_node("target", "target", HUB)
        await mesh.start_node("draft", _NODE, _FAR)
        await mesh.are_in(["target", _NODE])
        near = await mesh.start_clients("near", HUB, _STREAMS, 0)
        far = await mesh.start_clients("clients", _FAR, _STREAMS, _STREAMS)
        await near.until_guesses()
        await asyncio.sleep(_PLAN_S)
        before = Held.of(mesh.pid("coordinator"))
        began = mesh.now()
        await _change(cell, toxic)
        await _endure(mesh, toxic, seconds)
        heard = await near.heard(), await far.heard()
        took_s = mesh.now() - began
        num_left = sum(change.has_left for change in mesh.log.changes if change.at >= began)
        await _change(cell, HEALTHY)
        notes = [] if await _settled(mesh, before) else ["the mesh did not recover after it"]
        return AilingFigures(
            toxic=toxic,
            seconds=took_s,
            near=heard[0],
            far=heard[1],
            held=(before, Held.of(mesh.pid("coordinator"))),
            num_left=num_left,
            num_resets=cell.num_resets,
            notes=notes,
        )


async def _change(cell: ToxicCell, toxic: Toxic) -> None:
    """Change the toxic and end all connections, so that all peers connect through the new one."""
    cell.toxic = toxic
    await cell.end_connections()


async def _endure(mesh: LinkMesh, toxic: Toxic, seconds: float) -> None:
    end = mesh.now() + seconds
    while (left_s := end - mesh.now()) > 0.0:
        await asyncio.sleep(min(_TURN_S, left_s))
        if toxic.close_s and mesh.now() < end:
            await mesh.kill(_NODE)
            await mesh.start_node("draft", _NODE, _FAR)


async def _settled(mesh: LinkMesh, before: Held) -> bool:
    """Wait until the draft node is a member and the coordinator holds no more than before.

    Returns whether both came true within the limit.
    """
    give_up_at = mesh.now() + _SETTLE_LIMIT_S
    while mesh.now() < give_up_at:
        held = Held.of(mesh.pid("coordinator"))
        is_small = held.threads <= before.threads and held.descriptors <= before.descriptors
        if is_small and mesh.log.is_in(_NODE):
            return True
        await asyncio.sleep(_POLL_S)
    return False
