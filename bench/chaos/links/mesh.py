"""A mesh with its members at the places of an emulated cell, and clients that compare all tokens.

Processes, keys and TCP are real. Models are replayed (`bench/emulate/replay.py`), so passes take as
long as on other devices. The recording is the undisturbed run with which texts are compared.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from bench.chaos.links.clients import EMULATED, Hearing
from bench.harness.fleet import COORDINATOR, UP_LIMIT_S, Fleet, Setup, fleet
from bench.harness.places import Places

TARGET: Final = EMULATED / "nodes" / "agx-orin-llama-3.1-8b.toml"
_DRAFT: Final = EMULATED / "nodes" / "orin-nano-qwen2.5-0.5b.toml"
_SETUP: Final = Setup(
    target_model=f"replay:{TARGET}",
    draft_model=f"replay:{_DRAFT}",
    max_streams=32,
    # The join timeout allows for a link that is bad when a node starts. Prompt lookup depends on
    # no link and makes texts unequally fast, so it is off.
    environ={"AIRDRAFT_JOIN_TIMEOUT_S": "60", "AIRDRAFT_PROMPT_LOOKUP": "false"},
)


@contextlib.asynccontextmanager
async def link_mesh(places: Places) -> AsyncIterator[Fleet]:
    """Open a mesh and start its coordinator; all of its processes end with the block.

    Raises FleetError if a process ended by itself.
    """
    async with fleet(_SETUP, places=places, starts=[COORDINATOR]) as mesh:
        yield mesh
        mesh.check()


async def start_clients(
    mesh: Fleet, name: str, place: str, num_streams: int, first: int
) -> Hearing:
    """Start streams that request texts of the recording for ever, from index `first` on."""
    module = "bench.chaos.links.clients"
    await mesh.start_module(name, place, module, str(num_streams), str(first))
    log = mesh.log(name)

    def has_begun() -> bool | None:
        return (log.exists() and log.stat().st_size > 0) or None

    await mesh.until(has_begun, UP_LIMIT_S, f"{name} has not begun")
    return Hearing(log, mesh.now)
