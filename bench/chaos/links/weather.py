"""Apply the outages of a profile to a running mesh, one after another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bench.chaos.links.log import Dark
from bench.chaos.links.mesh import START_LIMIT_S, LinkMesh, until
from bench.emulate.cell import UP
from bench.emulate.open import LiveCell
from bench.emulate.profiles import Outage

# A node may be taken for dead this long after an outage, because TCP sends data again at growing
# intervals.
AFTER_S = 6.0


class Weather:
    """The outages of some stations.

    stations: stations that are cut. movers: draft nodes at the first of them. In an outage with
    `moves` they are restarted at `refuge`, and in the next one back at the first station.
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
        """Stop moving nodes; returns when the present outage is over."""
        del self._movers[:]
        async with self._is_dark:
            pass

    @property
    def place(self) -> str:
        """The station at which the movers are or shall be started."""
        return self._stations[0]

    async def run(self) -> None:
        """Cause outages until cancelled."""
        while self._outage is not None:
            await asyncio.sleep(self._outage.every_s - self._outage.lasts_s)
            await self.darken(self._outage)

    async def darken(self, outage: Outage) -> Dark:
        """Cause one outage and return it when it ends, before its `over`."""
        async with self._is_dark:
            return await self._darken(outage)

    async def _darken(self, outage: Outage) -> Dark:
        live, now = self._live, self._mesh.now
        stations = self._stations[:1] if outage.moves else self._stations
        begin = mended = now()
        # The list must hold the outage while it lasts, too.
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
        """Restart the running movers at the other station; return the time when they have sent."""
        movers = [name for name in self._movers if self._mesh.has_process(name)]
        for name in movers:
            # The cut link swallows the packets by which the kernel ends the connections.
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
    """Return how many packets of a station have arrived at the hub so far."""
    return live.counters()[place, UP].num_frames
