"""Run a mesh whose draft node and some clients connect over a faulty TCP proxy, toxic by toxic."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from bench.chaos.links.clients import Heard
from bench.chaos.links.mesh import LinkMesh, link_mesh
from bench.emulate.toxics import HEALTHY, Toxic, ToxicCell, toxic_cell
from bench.harness.fleet import COORDINATOR, FleetError
from bench.harness.places import HUB
from bench.harness.processes import num_files, num_threads
from bench.harness.report import head, row

_FAR = "far"
_TARGET, _NODE = "target-0", "draft-0"
_STREAMS = 4
_TURN_S = 8.0
# The coordinator plans every second once there are guesses. The first plan starts a thread, which
# must be counted before the toxic.
_PLAN_S = 3.0
_SETTLE_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Held:
    """Resources of the coordinator's process."""

    threads: int
    descriptors: int

    @classmethod
    def of(cls, pid: int) -> Held:
        return cls(num_threads(pid), num_files(pid))


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
            found.append(f"requests at the hub failed: {dict(self.near.failures)}")
        if not self.near.num_texts:
            found.append("no text was finished at the hub, so the run shows nothing")
        before, after = self.held
        if after.threads > before.threads or after.descriptors > before.descriptors:
            found.append(f"the coordinator held {before} before and {after} after")
        return [f"{self.toxic.name}: {fault}" for fault in found]

    def row(self) -> str:
        heard = self.near, self.far
        before, after = self.held
        return row(
            self.toxic.name,
            f"{sum(h.num_wrong for h in heard)}, {sum(h.num_texts for h in heard)}, "
            f"{sum(h.num_failed for h in heard)}",
            self.num_left,
            self.num_resets,
            self.near.between_ms(),
            self.far.between_ms(),
            f"{after.threads - before.threads:+}, {after.descriptors - before.descriptors:+}",
        )


HEAD = head(
    *("toxic", "texts wrong, complete, failed", "nodes that left", "resets"),
    *("near: ms between tokens, p50 p99 max", "far", "growth of threads, descriptors"),
)


async def run_toxic(toxic: Toxic, seconds: float, seed: int) -> AilingFigures:
    """Run one toxic on all connections of a draft node and some clients, in a mesh of its own.

    With a toxic that delays ends of connections, the draft node is restarted every few seconds.
    """
    async with toxic_cell(HEALTHY, seed) as cell, link_mesh(cell) as mesh:
        await mesh.start_node(_TARGET)
        await mesh.start_node(_NODE, _FAR)
        await mesh.fleet.are_in(_TARGET, _NODE)
        near = await mesh.start_clients("near", HUB, _STREAMS, 0)
        far = await mesh.start_clients("far", _FAR, _STREAMS, _STREAMS)
        await near.until_guesses()
        await asyncio.sleep(_PLAN_S)
        coordinator = mesh.fleet.process(COORDINATOR).pid
        before, began = Held.of(coordinator), mesh.fleet.now()
        await _change(cell, toxic)
        await _endure(mesh, toxic, seconds)
        near_heard, far_heard = near.heard(), far.heard()
        took_s = mesh.fleet.now() - began
        num_left = len(mesh.fleet.log_of_members.left(began, mesh.fleet.now()))
        await _change(cell, HEALTHY)
        notes = [] if await _settled(mesh, before) else ["the mesh did not recover after it"]
        return AilingFigures(
            toxic=toxic,
            seconds=took_s,
            near=near_heard,
            far=far_heard,
            held=(before, Held.of(coordinator)),
            num_left=num_left,
            num_resets=cell.num_resets,
            notes=notes,
        )


async def _change(cell: ToxicCell, toxic: Toxic) -> None:
    """Change the toxic and end all connections, so that all peers connect through the new one."""
    cell.toxic = toxic
    await cell.end_connections()


async def _endure(mesh: LinkMesh, toxic: Toxic, seconds: float) -> None:
    end = mesh.fleet.now() + seconds
    while (left_s := end - mesh.fleet.now()) > 0.0:
        await asyncio.sleep(min(_TURN_S, left_s))
        if toxic.close_s and mesh.fleet.now() < end:
            await mesh.fleet.kill(_NODE)
            await mesh.start_node(_NODE, _FAR)


async def _settled(mesh: LinkMesh, before: Held) -> bool:
    """Wait until the draft node is a member and the coordinator holds no more than before.

    Returns whether both came true within the limit.
    """
    coordinator = mesh.fleet.process(COORDINATOR).pid

    def is_settled() -> bool | None:
        held = Held.of(coordinator)
        is_small = held.threads <= before.threads and held.descriptors <= before.descriptors
        return (is_small and mesh.fleet.log_of_members.is_in(_NODE)) or None

    with contextlib.suppress(FleetError):
        return await mesh.fleet.until(is_settled, _SETTLE_LIMIT_S, "the mesh has not settled")
    return False
