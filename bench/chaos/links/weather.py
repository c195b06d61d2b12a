"""Apply the outages of a profile to a running mesh, one after another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bench.emulate.cell import UP
from bench.emulate.open import LiveCell
from bench.emulate.profiles import Outage
from bench.harness.fleet import UP_LIMIT_S, Fleet
from bench.harness.members import Dark

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
        mesh: Fleet,
        cell: LiveCell,
        stations: Sequence[str],
        movers: Sequence[str],
        refuge: str,
    ) -> None:
        self.darks: list[Dark] = []
        self._mesh = mesh
        self._cell = cell
        self._stations = list(stations)
        self._movers = movers
        self._refuge = refuge

    @property
    def place(self) -> str:
        """The station at which the movers are or shall be started."""
        return self._stations[0]

    async def run(self, outage: Outage | None) -> None:
        """Cause an outage again and again until cancelled."""
        while outage is not None:
            await asyncio.sleep(outage.every_s - outage.lasts_s)
            await self.darken(outage)

    async def darken(self, outage: Outage) -> Dark:
        """Cause one outage and return it when it ends, before its `over`."""
        cell, now = self._cell, self._mesh.now
        stations = self._stations[:1] if outage.moves else self._stations[:]
        begin = moved = now()
        # The list must hold the outage while it lasts, too.
        place = len(self.darks)
        self.darks.append(Dark(begin, float("inf"), float("inf")))
        for station in stations:
            cell.cut(station, outage.directions)
        if outage.moves:
            self._stations[0], self._refuge = self._refuge, self._stations[0]
            moved = await self._move()
        await asyncio.sleep(max(0.0, begin + outage.lasts_s - now()))
        for station in stations:
            cell.mend(station, outage.directions)
        end = now()
        self.darks[place] = Dark(begin, moved if outage.moves else end, end + AFTER_S)
        return self.darks[place]

    async def _move(self) -> float:
        """Restart the movers at their new place; return when the first one has sent from there.

        A cut link swallows the packets by which the kernel ends the connections.
        """

        def num_arrived() -> int:
            return self._cell.counters()[self.place, UP].num_frames

        before = num_arrived()
        names = [name for name in self._movers if self._mesh.is_up(name)]
        for name in names:
            await self._mesh.kill(name)
        for name in names:
            await self._mesh.start(name, place=self.place)
        if names:
            what = f"{', '.join(names)} have sent nothing from {self.place}"
            await self._mesh.until(lambda: num_arrived() > before or None, UP_LIMIT_S, what)
        return self._mesh.now()
