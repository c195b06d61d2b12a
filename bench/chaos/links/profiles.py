"""`python -m bench chaos links`: a mesh over links that lose packets and are cut for a while."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import click

from bench.chaos.links.figures import HEAD, LinkFigures
from bench.chaos.links.mesh import (
    CLIENTS,
    DRAFT_NODES,
    Setting,
    link_clients,
    link_mesh,
    link_options,
    start_drafts,
)
from bench.chaos.links.toxics import run_toxic
from bench.emulate.cell import UP, CountersOf
from bench.emulate.open import LiveCell, Means, open_cell
from bench.emulate.profiles import GOOD, PROFILES, LinkProfile, Outage, cell_of
from bench.emulate.toxics import TOXICS
from bench.harness.fleet import UP_LIMIT_S, Fleet
from bench.harness.members import Dark
from bench.harness.processes import beside
from bench.harness.report import Findings, conclude
from bench.harness.streams import listened
from bench.options import at_least, names_option

# A node may be taken for dead this long after an outage, because TCP sends data again at growing
# intervals.
AFTER_S = 6.0
_DRAFTS, _REFUGE = "drafts", "refuge"


@click.command("links")
@names_option("--profiles", (*PROFILES, *TOXICS), "Kinds of links.")
@at_least("--seconds", 60.0, "Duration of each profile.")
@link_options
def links_command(profiles: list[str], seconds: float, seed: int, means: Means) -> None:
    """EMULATED: check texts, deaths, outages, stalls and speed with nodes behind bad links.

    Links lose packets, are cut for a while, or run over a TCP proxy that stalls, drips, caps,
    resets or closes late. Devices are emulated, too.

    \b
    Example:
      python -m bench chaos links --profiles wifi,bad,reset --seconds 60
    """
    setting, found = Setting(seconds=seconds, seed=seed), Findings()
    kind = ""
    for name in profiles:
        if name in TOXICS:
            figures = asyncio.run(run_toxic(TOXICS[name], setting))
        else:
            figures = asyncio.run(run_profile(PROFILES[name], setting, means))
        if figures.kind != kind:
            kind = figures.kind
            click.echo(f"*emulated* ({kind}), seed {seed}\n\n{HEAD}")
        click.echo(figures.row())
        found.faults += figures.faults()
    conclude(found)


async def run_profile(profile: LinkProfile, setting: Setting, means: Means) -> LinkFigures:
    """Run one profile in a cell and a mesh of its own.

    Raises NamespacesError if TUN devices are required and not allowed.
    """
    links = {_DRAFTS: profile, CLIENTS: profile, _REFUGE: GOOD}
    cell = cell_of(links, setting.seed)
    warm_up_s, seconds = setting.warm_up_s, setting.seconds
    async with (
        open_cell(cell, means=means) as (live, kind),
        link_mesh(live) as mesh,
        link_clients(mesh, setting) as (near, far),
    ):
        weather = Weather(mesh, live, (_DRAFTS, CLIENTS), DRAFT_NODES, _REFUGE)
        async with beside(weather.run(profile.outage)):
            # Plain decoding is measured before and after, because the machine's speed drifts.
            plain = await listened([near], warm_up_s, seconds / 4)
            await start_drafts(mesh, weather.place)
            await asyncio.sleep(warm_up_s)
            before, began = live.counters(), mesh.now()
            near_heard, far_heard = await listened([near, far], 0.0, seconds)
            share, end = lost_share(live.counters(), before), mesh.now()
        for name in DRAFT_NODES:
            await mesh.kill(name)
        plain += await listened([near], warm_up_s, seconds / 4)
        darks = [dark for dark in weather.darks if began <= dark.begin and dark.over < end]
        log = mesh.log_of_members
        deaths = log.false_deaths(weather.darks, began, end)
        return LinkFigures(
            link=profile.name,
            kind=kind,
            plain=tuple(plain),
            near=near_heard,
            far=far_heard,
            deaths=[f"{change.node} {change.reason}" for change in deaths],
            may_die=profile.may_lose_nodes,
            is_moved=profile.outage is not None and profile.outage.moves,
            noticed_s=[s for dark in darks for s in log.noticed_s(dark)],
            healed_s=[s for dark in darks for s in log.healed_s(dark)],
            lost_share=share,
        )


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
        dark, moved = Dark(now()), math.inf
        # The list must hold the outage while it lasts, too.
        self.darks.append(dark)
        for station in stations:
            cell.cut(station, outage.directions)
        if outage.moves:
            self._stations[0], self._refuge = self._refuge, self._stations[0]
            moved = await self._move()
        await asyncio.sleep(max(0.0, dark.begin + outage.lasts_s - now()))
        for station in stations:
            cell.cut(station, outage.directions, ends=True)
        dark.mended, dark.over = min(moved, now()), now() + AFTER_S
        return dark

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
            await self._mesh.until(lambda: num_arrived() > before, UP_LIMIT_S, what)
        return self._mesh.now()


def lost_share(after: CountersOf, before: CountersOf) -> float:
    """Returns the share of a cell's packets between two counts that were lost on their path."""
    used = [after[key] - before[key] for key in after]
    lost = sum(c.num_vanished for c in used)
    return lost / max(1, lost + sum(c.num_frames for c in used))
