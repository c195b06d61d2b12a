"""Run a mesh whose draft nodes and some clients connect over a faulty TCP proxy."""

from __future__ import annotations

import asyncio
import contextlib

from bench.chaos.links.figures import LinkFigures
from bench.chaos.links.mesh import (
    CLIENTS,
    DRAFT_NODES,
    Setting,
    link_clients,
    link_mesh,
    start_drafts,
)
from bench.emulate.toxics import HEALTHY, Toxic, ToxicCell, toxic_cell
from bench.harness.fleet import COORDINATOR, UP_LIMIT_S, Fleet, FleetError
from bench.harness.processes import num_files, num_threads

_TURN_S = 8.0
# The coordinator plans every second once there are guesses. The first plan starts a thread, which
# must be counted before the toxic.
_PLAN_S = 3.0
_SETTLE_LIMIT_S = 120.0


async def run_toxic(toxic: Toxic, setting: Setting) -> LinkFigures:
    """Run one toxic on all connections of draft nodes and some clients, in a mesh of its own.

    Afterwards the mesh must recover, and the coordinator must hold no more than before. With a
    toxic that delays ends of connections, the draft nodes are restarted every few seconds.
    """
    async with (
        toxic_cell(HEALTHY, setting.seed) as cell,
        link_mesh(cell) as mesh,
        link_clients(mesh, setting) as (near, far),
    ):
        await start_drafts(mesh, CLIENTS)
        # Several tokens come at a time only if guesses are accepted.
        await mesh.until(lambda: near.heard().most_at_once > 1, UP_LIMIT_S, "no guess was accepted")
        await asyncio.sleep(_PLAN_S)
        far.heard()
        near.heard()
        before, began = _held(mesh), mesh.now()
        await _change(cell, toxic)
        await _endure(mesh, toxic, setting.seconds)
        near_heard, far_heard = near.heard(), far.heard()
        left = mesh.log_of_members.left(began, mesh.now())
        await _change(cell, HEALTHY)
        notes = [] if await _settled(mesh, before) else ["the mesh did not recover after it"]
        threads, files = (now - then for now, then in zip(_held(mesh), before, strict=True))
        return LinkFigures(
            link=toxic.name,
            kind=ToxicCell.kind,
            near=near_heard,
            far=far_heard,
            deaths=[f"{change.node} {change.reason}" for change in left],
            may_die=True,
            num_resets=cell.num_resets,
            growth=(threads, files),
            notes=notes,
        )


def _held(mesh: Fleet) -> tuple[int, int]:
    """Returns the numbers of threads and descriptors of the coordinator's process."""
    pid = mesh.process(COORDINATOR).pid
    return num_threads(pid), num_files(pid)


async def _change(cell: ToxicCell, toxic: Toxic) -> None:
    """Change the toxic and end all connections, so that all peers connect through the new one."""
    cell.toxic = toxic
    await cell.end_connections()


async def _endure(mesh: Fleet, toxic: Toxic, seconds: float) -> None:
    end = mesh.now() + seconds
    while (left_s := end - mesh.now()) > 0.0:
        await asyncio.sleep(min(_TURN_S, left_s))
        if toxic.close_s and mesh.now() < end:
            for name in DRAFT_NODES:
                await mesh.kill(name)
                await mesh.start(name, place=CLIENTS)


async def _settled(mesh: Fleet, before: tuple[int, int]) -> bool:
    """Wait until the draft nodes are members and the coordinator holds no more than before.

    Returns whether both came true within the limit.
    """

    def is_settled() -> bool:
        is_small = all(now <= then for now, then in zip(_held(mesh), before, strict=True))
        return is_small and all(map(mesh.log_of_members.is_in, DRAFT_NODES))

    with contextlib.suppress(FleetError):
        return await mesh.until(is_settled, _SETTLE_LIMIT_S, "the mesh has not settled")
    return False
