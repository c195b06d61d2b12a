"""Profiles of real links between a node or client and the hub: delay, loss and outages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.emulate.cell import DOWN, UP, Cell, Direction, Path, Station

BOTH: tuple[Direction, ...] = (UP, DOWN)
_QUEUE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """Nothing passes in these directions for lasts_s of every every_s seconds.

    moves: the nodes behind the link are then restarted over another path, as on a machine that was
    moved; the hub gets no notice that the old connections are dead.
    """

    directions: tuple[Direction, ...]
    lasts_s: float
    every_s: float = 20.0
    moves: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkProfile:
    """One kind of link. rtt_s: round trip without queues. rate_bps, path: of each direction.

    may_lose_nodes: the link is so bad that a living node may be taken for dead.
    """

    name: str
    rtt_s: float = 0.005
    rate_bps: float = 100e6
    path: Path = field(default_factory=Path)
    outage: Outage | None = None
    may_lose_nodes: bool = False


GOOD = LinkProfile(name="good")
_BURSTS = Path(enter=0.01, leave=0.2, loss_inside=0.5)
_BAD = Path(enter=0.02, leave=0.1, loss_inside=0.8)
PROFILES = {
    profile.name: profile
    for profile in (
        GOOD,
        LinkProfile(name="wifi", rtt_s=0.020, path=Path(loss=0.02, jitter_s=0.004)),
        LinkProfile(name="burst", rtt_s=0.020, path=_BURSTS),
        LinkProfile(name="bad", rtt_s=0.060, path=_BAD, may_lose_nodes=True),
        LinkProfile(name="blackout", outage=Outage(directions=BOTH, lasts_s=3.0)),
        LinkProfile(name="one-way", outage=Outage(directions=(UP,), lasts_s=8.0)),
        LinkProfile(name="one-way-back", outage=Outage(directions=(DOWN,), lasts_s=8.0)),
        LinkProfile(name="half-open", outage=Outage(directions=BOTH, lasts_s=8.0, moves=True)),
    )
}


def cell_of(links: Mapping[str, LinkProfile], seed: int) -> Cell:
    """Returns a cell in which each station has a link of its own to the hub, of a given profile."""
    num_links = len(links)
    stations = tuple(
        Station(
            name=name,
            # A station has 1 / num_links of this rate for itself: the rate of its profile.
            rate_bps=profile.rate_bps * num_links,
            delay_s=profile.rtt_s / 2,
            path=profile.path,
            queue_bytes=_QUEUE_BYTES,
        )
        for name, profile in links.items()
    )
    return Cell(stations=stations, shares=(1.0 / num_links,) * num_links, seed=seed)
