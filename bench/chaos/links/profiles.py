"""Run a mesh over a bad link: coordinator and target at the hub, draft nodes behind the link.

Links are emulated, and devices are replayed (`bench/emulate/replay.py`), so that passes take as
long as on them; coordinator, nodes, clients, keys, and over TUN devices TCP, are real. Clients at
the hub (near) show what a bad link to the draft nodes costs clients that do not use the link.
Clients behind the link (far) show what it costs its users.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.emulate.cell import UP, CountersOf
from bench.emulate.open import LiveCell, Means, open_cell
from bench.emulate.profiles import GOOD, LinkProfile, Outage, cell_of
from bench.harness.fleet import COORDINATOR, UP_LIMIT_S, Fleet, Setup, fleet
from bench.harness.members import Dark
from bench.harness.processes import HUB, Places, ended
from bench.harness.report import head, row
from bench.harness.streams import EMULATED, Heard, Hearing, Task, counted, start_streams

CLIENTS = "clients"
TARGET_NODE, DRAFT_NODES = "target-0", ("draft-0", "draft-1")
LEAST_RATIO = 0.95
NOTICED_WITHIN_S = 3.0
HEALED_WITHIN_S = 5.0
STUCK_S = 5.0
# A node may be taken for dead this long after an outage, because TCP sends data again at growing
# intervals.
AFTER_S = 6.0
_DRAFTS, _REFUGE = "drafts", "refuge"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFigures:
    """Results of one link.

    plain: what the near streams received without draft nodes, in plain_s seconds. deaths: nodes
    that left without cause, with reasons; may_die: whether the link excuses them. noticed_s,
    healed_s: times of nodes in outages; a node that moves is noticed when it comes back, if not
    before. held: threads and descriptors of the coordinator before and after the link was bad, with
    the same members. notes: other faults.
    """

    link: str
    kind: str
    seconds: float
    near: Heard
    far: Heard
    plain: tuple[Heard, ...] = ()
    plain_s: float = 0.0
    deaths: list[str] = field(default_factory=list)
    may_die: bool = False
    is_moved: bool = False
    noticed_s: list[float] = field(default_factory=list)
    healed_s: list[float] = field(default_factory=list)
    lost_share: float = 0.0
    num_resets: int = 0
    held: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    notes: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Ratio of the near streams' tokens per second with draft nodes to those without."""
        plain_tokens = sum(heard.num_tokens for heard in self.plain)
        if not plain_tokens:
            return float("inf")
        return self.near.num_tokens / self.seconds / (plain_tokens / self.plain_s)

    @property
    def heard(self) -> tuple[Heard, ...]:
        return *self.plain, self.near, self.far

    @property
    def growth(self) -> tuple[int, int]:
        """Threads and descriptors of the coordinator that stayed after the link was bad."""
        (threads, files), (threads_after, files_after) = self.held
        return threads_after - threads, files_after - files

    def faults(self) -> list[str]:
        """Return what must not happen with this link; empty if all is well."""
        found = list(self.notes)
        if not all(heard.num_tokens for heard in self.heard):
            found.append("a place received no tokens, so the run shows nothing")
        if not self.near.num_texts:
            found.append("no text was finished at the hub, so the run shows nothing")
        if num_wrong := sum(heard.num_wrong for heard in self.heard):
            found.append(f"{num_wrong} wrong texts")
        if self.deaths and not self.may_die:
            found.append(f"{len(self.deaths)} false deaths: {', '.join(sorted(set(self.deaths)))}")
        if self.ratio < LEAST_RATIO:
            found.append(f"{self.ratio:.2f} of the speed of the target alone")
        if not self.is_moved and (latest_s := max(self.noticed_s, default=0.0)) > NOTICED_WITHIN_S:
            found.append(f"an outage was noticed after {latest_s:.1f} s")
        if (slowest_s := max(self.healed_s, default=0.0)) > HEALED_WITHIN_S:
            found.append(f"a node was back after {slowest_s:.1f} s")
        if self.near.failures:
            found.append(f"requests at the hub failed: {dict(self.near.failures)}")
        if (waits_s := max(self.near.waits_s, default=0.0)) > STUCK_S:
            found.append(f"a stream at the hub has waited for {waits_s:.1f} s")
        if max(self.growth) > 0:
            found.append("the coordinator kept {} threads and {} descriptors".format(*self.growth))
        return [f"{self.link}: {fault}" for fault in found]

    def row(self) -> str:
        """Return the row below HEAD."""
        near, rate = self.near, self.near.num_tokens / self.seconds
        # Runs over a proxy measure nothing without draft nodes.
        ratio = f"{self.ratio:.2f}" if self.plain else "-"
        return row(
            self.link,
            f"{self.lost_share:.1%}, {self.num_resets}",
            counted(self.heard),
            len(self.deaths),
            *map(_most, (self.noticed_s, self.healed_s)),
            near.between_ms(),
            self.far.between_ms(),
            f"{rate:.1f}, {ratio}",
            "{:+}, {:+}".format(*self.growth),
        )


HEAD = head(
    *("link", "packets lost, connections reset", "texts wrong, complete, failed", "nodes lost"),
    *("outages: noticed s, max", "nodes back s, max"),
    *("near: ms between tokens, p50 p99 max", "far"),
    *("near: tokens/s, ratio to target alone", "threads, descriptors kept"),
)


def _most(seconds: Sequence[float]) -> str:
    return f"{max(seconds):.1f}" if seconds else "-"


@contextlib.asynccontextmanager
async def link_mesh(places: Places) -> AsyncIterator[Fleet]:
    """Open a mesh and start its coordinator; all of its processes end with the block.

    Raises FleetError if a process ended by itself.
    """
    async with fleet(_SETUP, places=places, starts=[COORDINATOR]) as mesh:
        yield mesh
        mesh.check()


async def start_clients(mesh: Fleet, far_place: str, setting: Setting) -> tuple[Hearing, Hearing]:
    """Start the target, and then the streams at the hub and those behind the link."""
    await mesh.start(TARGET_NODE)
    await mesh.are_in(TARGET_NODE)
    near = await start_streams(mesh, "near", HUB, Task(num_streams=setting.near))
    far = Task(num_streams=setting.far, first=setting.near)
    return near, await start_streams(mesh, "far", far_place, far)


async def run_profile(profile: LinkProfile, setting: Setting, means: Means) -> LinkFigures:
    """Run one profile in a cell and a mesh of its own.

    Raises NamespacesError if TUN devices are required and not allowed.
    """
    links = {_DRAFTS: profile, CLIENTS: profile, _REFUGE: GOOD}
    cell = cell_of(links, setting.seed)
    async with open_cell(cell, means=means) as (live, kind), link_mesh(live) as mesh:
        near, far = await start_clients(mesh, CLIENTS, setting)
        weather = Weather(mesh, live, (_DRAFTS, CLIENTS), DRAFT_NODES, _REFUGE)
        raining = asyncio.create_task(weather.run(profile.outage))
        try:
            # Plain decoding is measured before and after, because the machine's speed drifts.
            plain, plain_s = await _plainly(mesh, near, setting)
            for name in DRAFT_NODES:
                await mesh.start(name, place=weather.place)
            await mesh.are_in(*DRAFT_NODES)
            await asyncio.sleep(setting.warm_up_s)
            near.heard()
            far.heard()
            before, began = live.counters(), mesh.now()
            await asyncio.sleep(setting.seconds)
            end = mesh.now()
            near_heard, far_heard = near.heard(), far.heard()
            share = lost_share(live.counters(), before)
            if raining.done():
                raining.result()
        finally:
            await ended([raining])
        for name in DRAFT_NODES:
            await mesh.kill(name)
        later, later_s = await _plainly(mesh, near, setting)
        darks = [dark for dark in weather.darks if began <= dark.begin and dark.over < end]
        log = mesh.log_of_members
        deaths = log.false_deaths(weather.darks, began, end)
        return LinkFigures(
            link=profile.name,
            kind=kind,
            seconds=end - began,
            plain=(plain, later),
            plain_s=plain_s + later_s,
            near=near_heard,
            far=far_heard,
            deaths=[f"{change.node} {change.reason}" for change in deaths],
            may_die=profile.may_lose_nodes,
            is_moved=profile.outage is not None and profile.outage.moves,
            noticed_s=[s for dark in darks for s in log.noticed_s(dark)],
            healed_s=[s for dark in darks for s in log.healed_s(dark)],
            lost_share=share,
        )


async def _plainly(mesh: Fleet, near: Hearing, setting: Setting) -> tuple[Heard, float]:
    """Return what the near streams receive in a quarter of the time, and its duration."""
    await asyncio.sleep(setting.warm_up_s)
    near.heard()
    began = mesh.now()
    await asyncio.sleep(setting.seconds / 4)
    return near.heard(), mesh.now() - began


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


def lost_share(after: CountersOf, before: CountersOf) -> float:
    """Return the share of a cell's packets between two counts that were lost on their path."""
    used = [after[key] - before[key] for key in after]
    lost = sum(c.num_vanished for c in used)
    return lost / max(1, lost + sum(c.num_frames for c in used))
