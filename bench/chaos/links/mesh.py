"""A mesh with its members at the places of an emulated cell, and clients that compare all tokens.

Processes, keys and TCP are real. Models are replayed (`bench/emulate/replay.py`), so passes take as
long as on other devices. The recording is the undisturbed run with which texts are compared.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

from bench.chaos.links.clients import EMULATED, Heard, Hearing
from bench.emulate.cell import UP
from bench.emulate.open import LiveCell
from bench.emulate.profiles import BOTH
from bench.harness.fleet import COORDINATOR, UP_LIMIT_S, Fleet, Setup, fleet
from bench.harness.places import HUB, Places

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
_LOSS_LIMIT_S = 120.0
_GUESSES_POLL_S = 0.2
# Ways to lose a node.
HOWS: Final = ("kill", "cut")


class LinkMesh:
    """A fleet at places, and the clients of a place."""

    def __init__(self, made: Fleet, cell: LiveCell | None) -> None:
        self.fleet = made
        self._cell = cell

    async def start_node(self, name: str, place: str = HUB) -> float:
        """Start a target or draft node without waiting until it joins; return the time."""
        at = self.fleet.now()
        await self.fleet.start(name, place=place)
        return at

    async def start_clients(self, name: str, place: str, num_streams: int, first: int) -> Clients:
        """Start streams that request texts of the recording for ever, from index `first` on."""
        module = "bench.chaos.links.clients"
        await self.fleet.start_module(name, place, module, str(num_streams), str(first))
        clients = Clients(self.fleet, Hearing(self.fleet.log(name)))
        what = f"{name} has not begun"
        await self.fleet.until(lambda: clients.hearing.has_begun or None, UP_LIMIT_S, what)
        return clients

    @property
    def cell(self) -> LiveCell:
        assert self._cell is not None
        return self._cell

    async def lose(self, how: str, *names: str) -> float:
        """Kill nodes, or cut the links of the stations of their names; return when it began."""
        at = self.fleet.now()
        for name in names:
            if how == "kill":
                await self.fleet.kill(name)
            else:
                self.cell.cut(name, BOTH)
        return at

    async def bring_back(self, how: str, *names: str) -> None:
        """Undo a loss, and wait until the nodes are members again."""
        at = self.fleet.now()
        for name in names:
            if how == "kill":
                await self.start_node(name, name)
            else:
                self.cell.mend(name, BOTH)
        if how == "kill":
            for name in names:
                await self.fleet.has_changed(name, at, has_left=False, limit_s=_LOSS_LIMIT_S)
        else:
            await self.fleet.are_in(*names, limit_s=_LOSS_LIMIT_S)

    async def move(self, names: Sequence[str], place: str) -> float:
        """Restart draft nodes at another place; return when the first one has sent from there.

        A cut link swallows the packets by which the kernel ends the connections.
        """
        before = self._num_sent(place)
        for name in names:
            await self.fleet.kill(name)
        for name in names:
            await self.start_node(name, place)
        if names:
            what = f"{', '.join(names)} have sent nothing from {place}"
            await self.fleet.until(lambda: self._num_sent(place) > before or None, UP_LIMIT_S, what)
        return self.fleet.now()

    def _num_sent(self, place: str) -> int:
        """Return how many packets of a station have arrived at the hub so far."""
        return self.cell.counters()[place, UP].num_frames


class Clients:
    """The client process of a place."""

    def __init__(self, made: Fleet, hearing: Hearing) -> None:
        self._fleet = made
        self.hearing = hearing

    def heard(self) -> Heard:
        """Return what its streams have received since the last call. Raises FleetError."""
        self._fleet.check()
        return self.hearing.take(self._fleet.now())

    async def until_guesses(self) -> None:
        """Wait until several tokens come at a time, which only accepted guesses cause."""
        async with asyncio.timeout(_LOSS_LIMIT_S):
            counts: set[int] = set()
            while not counts - {1}:
                await asyncio.sleep(_GUESSES_POLL_S)
                counts = {count for _, count in self.heard().tokens_at}


@contextlib.asynccontextmanager
async def link_mesh(places: Places, cell: LiveCell | None = None) -> AsyncIterator[LinkMesh]:
    """Open a mesh and start its coordinator; all of its processes end with the block.

    cell: that of the places, if it can be cut. Raises FleetError if a process ended by itself.
    """
    async with fleet(_SETUP, places=places, starts=[COORDINATOR]) as made:
        yield LinkMesh(made, cell)
        made.check()
