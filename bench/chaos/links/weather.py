"""What a profile's outages do to a running mesh, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bench.chaos.links.log import Dark
from bench.chaos.links.mesh import START_LIMIT_S, LinkMesh, until
from bench.emulate.cell import UP
from bench.emulate.open import LiveCell
from bench.emulate.profiles import Outage

# A connection that was cut off is tried again later and later: as long may a node that the dark has
# silenced be taken for dead after it.
AFTER_S = 6.0


class Weather:
    """stations: those that it comes over. movers: draft nodes at the first of them, which start
    anew at `refuge` where the outage says so, and come back at the next one.
    """

    def __init__(
        self,
        mesh: LinkMesh,
        live: LiveCell,
        outage: Outage | None,
        stations: Sequence[str],
        movers: Sequence[str],
        refuge: str,
    ) -> None:
        self.darks: list[Dark] = []
        self._mesh, self._live = mesh, live
        self._outage = outage
        self._stations = list(stations)
        self._movers = list(movers)
        self._refuge = refuge
        self._is_dark = asyncio.Lock()

    async def release(self) -> None:
        """Move nobody any more; returns when the present outage is over."""
        del self._movers[:]
        async with self._is_dark:
            pass

    @property
    def place(self) -> str:
        """Where the movers are, or are to be started."""
        return self._stations[0]

    async def run(self) -> None:
        """Until cancelled."""
        while self._outage is not None:
            await asyncio.sleep(self._outage.every_s - self._outage.lasts_s)
            await self.darken(self._outage)

    async def darken(self, outage: Outage) -> Dark:
        """One outage, to its end. Returns it; the time after it is still to come."""
        async with self._is_dark:
            return await self._darken(outage)

    async def _darken(self, outage: Outage) -> Dark:
        live, now = self._live, self._mesh.now
        stations = self._stations[:1] if outage.moves else self._stations
        begin = mended = now()
        # Known while it lasts, too.
        place = len(self.darks)
        self.darks.append(Dark(begin, float("inf"), float("inf")))
        for station in stations:
            live.cut(station, outage.directions)
        if outage.moves:
            mended = await self._move()
        await asyncio.sleep(max(0.0, begin + outage.lasts_s - now()))
        for station in stations:
            live.mend(station, outage.directions)
        end = now()
        self.darks[place] = Dark(begin, mended if outage.moves else end, end + AFTER_S)
        return self.darks[place]

    async def _move(self) -> float:
        """Start the movers that run over the other path. Returns when they first sent something."""
        movers = [name for name in self._movers if self._mesh.has_process(name)]
        for name in movers:
            # What its kernel says of it goes into the dark.
            await self._mesh.kill(name)
        self._stations[0], self._refuge = self._refuge, self._stations[0]
        live = self._live
        before = num_sent(live, self.place)
        for name in movers:
            await self._mesh.start_node("draft", name, self._stations[0])
        if movers:
            what = f"{', '.join(movers)} have sent nothing from {self.place}"
            await until(lambda: num_sent(live, self.place) > before or None, START_LIMIT_S, what)
        return self._mesh.now()


def num_sent(live: LiveCell, place: str) -> int:
    """Packets of a station that have come through so far."""
    return live.counters()[place, UP].num_frames
