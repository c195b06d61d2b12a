"""Run a mesh over a bad link: coordinator and target at the hub, draft nodes behind the link.

Links and devices are emulated; coordinator, nodes, clients, keys, and over TUN devices TCP, are
real. Clients at the hub (near) show what a bad link to the draft nodes costs clients that do not
use the link. Clients behind the link (far) show what it costs its users.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.chaos.links.clients import Heard
from bench.chaos.links.mesh import Clients, LinkMesh, link_mesh
from bench.chaos.links.weather import Weather
from bench.emulate.cell import CountersOf
from bench.emulate.open import Means, open_cell
from bench.emulate.profiles import GOOD, LinkProfile, cell_of
from bench.harness.places import HUB
from bench.harness.processes import ended
from bench.harness.report import head, row

DRAFTS, CLIENTS, REFUGE = "drafts", "clients", "refuge"
LEAST_RATIO = 0.95
NOTICED_WITHIN_S = 3.0
HEALED_WITHIN_S = 5.0
STUCK_S = 5.0
_TARGET, _NODES = "target-0", ("draft-0", "draft-1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Parameters of a run.

    seconds: measured time with draft nodes; a quarter of it is measured without them before and
    after. near, far: number of streams at each place.
    """

    seconds: float = 60.0
    near: int = 6
    far: int = 4
    warm_up_s: float = 4.0
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFigures:
    """Results of one profile.

    plain: what the near streams received without draft nodes, in plain_s seconds. deaths: nodes
    that left without cause, with reasons. noticed_s, healed_s: times of nodes in outages.
    far_healed_s: times from mending until each far stream had a token again.
    """

    profile: LinkProfile
    kind: str
    seconds: float
    plain: Heard
    plain_s: float
    near: Heard
    far: Heard
    deaths: list[str] = field(default_factory=list)
    noticed_s: list[float] = field(default_factory=list)
    healed_s: list[float] = field(default_factory=list)
    far_healed_s: list[float] = field(default_factory=list)
    lost_share: float = 0.0

    @property
    def ratio(self) -> float:
        """Ratio of the near streams' tokens per second with draft nodes to those without."""
        plain_rate = self.plain.num_tokens / self.plain_s
        return self.near.num_tokens / self.seconds / plain_rate if plain_rate else float("inf")

    @property
    def heard(self) -> tuple[Heard, Heard, Heard]:
        return self.plain, self.near, self.far

    def faults(self) -> list[str]:
        """Return what must not happen with this profile; empty if all is well."""
        found = []
        if not all(heard.num_tokens for heard in self.heard):
            found.append("a place received no tokens, so the run shows nothing")
        if num_wrong := sum(heard.num_wrong for heard in self.heard):
            found.append(f"{num_wrong} wrong texts")
        if self.deaths and not self.profile.may_lose_nodes:
            found.append(f"{len(self.deaths)} false deaths: {', '.join(sorted(set(self.deaths)))}")
        if self.ratio < LEAST_RATIO:
            found.append(f"{self.ratio:.2f} of the speed of the target alone")
        # A node that moves is noticed when it comes back, if not before.
        is_cut = self.profile.outage is not None and not self.profile.outage.moves
        if is_cut and (latest_s := max(self.noticed_s, default=0.0)) > NOTICED_WITHIN_S:
            found.append(f"an outage was noticed after {latest_s:.1f} s")
        if (slowest_s := max(self.healed_s, default=0.0)) > HEALED_WITHIN_S:
            found.append(f"a node was back after {slowest_s:.1f} s")
        if self.near.failures:
            found.append(f"requests at the hub failed: {dict(self.near.failures)}")
        if (waits_s := max(self.near.waits_s, default=0.0)) > STUCK_S:
            found.append(f"a stream at the hub has waited for {waits_s:.1f} s")
        return [f"{self.profile.name}: {fault}" for fault in found]


async def run_profile(profile: LinkProfile, setting: Setting, means: Means) -> LinkFigures:
    """Run one profile in a cell and a mesh of its own.

    Raises NamespacesError if TUN devices are required and not allowed.
    """
    links = {DRAFTS: profile, CLIENTS: profile, REFUGE: GOOD}
    cell = cell_of(links, setting.seed)
    async with open_cell(cell, means=means) as (live, kind), link_mesh(live, live) as mesh:
        await mesh.start_node(_TARGET)
        await mesh.fleet.are_in(_TARGET)
        near = await mesh.start_clients("near", HUB, setting.near, 0)
        far = await mesh.start_clients("far", CLIENTS, setting.far, setting.near)
        weather = Weather(mesh, profile.outage, (DRAFTS, CLIENTS), _NODES, REFUGE)
        raining = asyncio.create_task(weather.run())
        try:
            # Plain decoding is measured before and after, because the machine's speed drifts.
            plain, plain_s = await _plainly(mesh, near, setting)
            for name in _NODES:
                await mesh.start_node(name, weather.place)
            await mesh.fleet.are_in(*_NODES)
            await asyncio.sleep(setting.warm_up_s)
            near.heard()
            far.heard()
            before, began = live.counters(), mesh.fleet.now()
            await asyncio.sleep(setting.seconds)
            end = mesh.fleet.now()
            near_heard, far_heard = near.heard(), far.heard()
            share = lost_share(live.counters(), before)
            await weather.release()
            for name in _NODES:
                await mesh.fleet.kill(name)
            later, later_s = await _plainly(mesh, near, setting)
            plain.add(later)
            if raining.done():
                raining.result()
        finally:
            await ended([raining])
        darks = [dark for dark in weather.darks if began <= dark.begin and dark.over < end]
        log = mesh.fleet.log_of_members
        deaths = log.false_deaths(weather.darks, began, end)
        return LinkFigures(
            profile=profile,
            kind=kind,
            seconds=end - began,
            plain=plain,
            plain_s=plain_s + later_s,
            near=near_heard,
            far=far_heard,
            deaths=[f"{change.node} {change.reason}" for change in deaths],
            noticed_s=[s for dark in darks for s in log.noticed_s(dark)],
            healed_s=[s for dark in darks for s in log.healed_s(dark)],
            far_healed_s=[
                at - dark.mended
                for dark in darks
                for at, gap_s, _ in far_heard.gaps_s
                if at - gap_s < dark.mended <= at and gap_s > 1.0
            ],
            lost_share=share,
        )


async def _plainly(mesh: LinkMesh, near: Clients, setting: Setting) -> tuple[Heard, float]:
    """Return what the near streams receive in a quarter of the time, and its duration."""
    await asyncio.sleep(setting.warm_up_s)
    near.heard()
    began = mesh.fleet.now()
    await asyncio.sleep(setting.seconds / 4)
    return near.heard(), mesh.fleet.now() - began


def lost_share(after: CountersOf, before: CountersOf) -> float:
    """Return the share of a cell's packets between two counts that were lost on their path."""
    used = [after[key] - before[key] for key in after]
    lost = sum(c.num_vanished for c in used)
    return lost / max(1, lost + sum(c.num_frames for c in used))


HEAD = head(
    *("link", "packets lost", "texts wrong, complete, failed", "false deaths"),
    *("outages: noticed s, max", "nodes back s, max", "far streams back s, max"),
    *("near: ms between tokens, p50 p99 max", "far"),
    "near: passes with guesses, tokens/s, ratio to target alone",
)


def row_of(figures: LinkFigures) -> str:
    """Return the row of a profile below HEAD."""
    wrong = sum(heard.num_wrong for heard in figures.heard)
    whole = sum(heard.num_texts for heard in figures.heard)
    failed = sum(heard.num_failed for heard in figures.heard)
    rate = figures.near.num_tokens / figures.seconds
    return row(
        figures.profile.name,
        f"{figures.lost_share:.1%}",
        f"{wrong}, {whole}, {failed}",
        len(figures.deaths),
        _most(figures.noticed_s),
        _most(figures.healed_s),
        _most(figures.far_healed_s),
        figures.near.between_ms(),
        figures.far.between_ms(),
        f"{figures.near.guessing_share:.2f}, {rate:.1f}, {figures.ratio:.2f}",
    )


def _most(seconds: Sequence[float]) -> str:
    return f"{max(seconds):.1f}" if seconds else "-"
