"""A mesh over bad links: coordinator and target at the hub, draft nodes behind a link.

Links are emulated, and devices are replayed (`bench/emulate/replay.py`), so that passes take as
long as on them; coordinator, nodes, clients, keys, and over TUN devices TCP, are real. Clients at
the hub (near) show what a bad link to the draft nodes costs clients that do not use the link.
Clients behind the link (far) show what it costs its users.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, get_args

import click

from bench.emulate.open import Means
from bench.harness.fleet import COORDINATOR, Fleet, Setup, fleet
from bench.harness.processes import Places
from bench.harness.streams import EMULATED, Hearing, Task, streams

CLIENTS: Final = "clients"
TARGET_NODE: Final = "target-0"
DRAFT_NODES: Final = ("draft-0", "draft-1")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Parameters of a run.

    seconds: measured time with draft nodes; over a profile, a quarter of it is measured without
    them before and after. near, far: number of streams at each place.
    """

    seconds: float = 60.0
    near: int = 6
    far: int = 4
    warm_up_s: float = 4.0
    seed: int = 1


def link_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of all commands over emulated links."""
    means = click.option(
        "--means",
        default="tun",
        type=click.Choice(get_args(Means)),
        help="tun needs root; the proxy delays lost data instead of losing it.",
    )
    return click.option("--seed", default=1)(means(command))


@contextlib.asynccontextmanager
async def link_mesh(places: Places) -> AsyncIterator[Fleet]:
    """Open a mesh and start its coordinator; all of its processes end with the block.

    Raises FleetError if a process ended by itself.
    """
    async with fleet(_SETUP, places=places, starts=[COORDINATOR]) as mesh:
        yield mesh
        mesh.check()


@contextlib.asynccontextmanager
async def link_clients(mesh: Fleet, setting: Setting) -> AsyncIterator[tuple[Hearing, Hearing]]:
    """Start the target, and run streams at the hub and streams behind the link."""
    await mesh.start(TARGET_NODE)
    await mesh.wait_joined(TARGET_NODE)
    near, far = Task(num_streams=setting.near), Task(num_streams=setting.far, first=setting.near)
    async with streams(mesh, near) as near_streams, streams(mesh, far, CLIENTS) as far_streams:
        yield near_streams, far_streams


async def start_drafts(mesh: Fleet, place: str) -> None:
    for name in DRAFT_NODES:
        await mesh.start(name, place=place)
    await mesh.wait_joined(*DRAFT_NODES)
