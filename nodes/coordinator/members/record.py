"""What the coordinator knows of one target or draft node. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from mesh.grants import Air
from mesh.heartbeat import HeartbeatState
from mesh.padding import SIZES
from nodes.config.settings import LEAST_INTERVALS
from nodes.coordinator.status.traffic import NodeTraffic
from nodes.messages import EngineProfile
from nodes.scheduler import Scheduler
from nodes.scheduler.instructions import Instruction
from nodes.worker.profile import same_vocabulary
from policies.latency import NodeCosts
from policies.plan import HEADER_BITS, Link

# A node that has work and reports no finished pass for so long counts as gone, or for longer where
# its passes are. What a lost message holds up goes on before that.
PROGRESS_TIMEOUT_S = 30.0
_PROGRESS_PASSES = 8
_PONGS_A_TIMEOUT = 4
# Of the time that a node's link has: what Pings and Pongs may take.
_HEARTBEAT_SHARE = 0.02
# A Ping or Pong, and what CURVE, TCP and IP add to it: 111 bytes are what an emulated cell counts.
_PING_BYTES, _AROUND_BYTES = 14, 97


def ping_bits(*, pads: bool) -> int:
    """What a Ping or a Pong takes of a link; pads: messages have a few sizes only."""
    return 8 * ((SIZES[0] if pads else _PING_BYTES) + _AROUND_BYTES)


@dataclass(slots=True)
class NodeRecord:
    """A target or draft node; targets have a scheduler."""

    name: str
    role: str
    peer: bytes
    profile: EngineProfile
    costs: NodeCosts
    heartbeat: HeartbeatState
    scheduler: Scheduler | None = None
    # As declared by the node; what it has not declared is measured.
    link: Link = field(default_factory=Link)
    # What a Ping or a Pong takes of its link.
    ping_bits: int = 0
    # Seconds of work that it has told of, and bytes of its messages.
    busy_s: float = 0.0
    traffic: NodeTraffic = field(default_factory=NodeTraffic)
    incarnation: int = 0
    # A target that takes no new streams, and leaves when it has none any more.
    is_draining: bool = False
    # Until a target has answered its probe: since when it is asked, and when it was asked last.
    unproved_since: float | None = None
    probed_at: float = -math.inf
    # When it was last there to die of what came behind a PROOF.
    proved_at: float = -math.inf

    @property
    def progress_timeout_s(self) -> float:
        cells = self.profile.num_cells
        own = min(cells, self.profile.context_length)
        tables = self.costs.prefill, self.costs.decode
        longest_s = max(table.at(table.sizes[-1], cells, own) for table in tables)
        return max(PROGRESS_TIMEOUT_S, _PROGRESS_PASSES * longest_s)

    def measured_link(self) -> Link:
        """The declared link with round trip and rate where these were not declared.

        What Ping and Pong take of the medium themselves is no part of the way: messages are
        reckoned with what they take.
        """
        rate_bps = self.link.rate_bps
        if self.profile.link.rate_bps == 0:
            rate_bps = self.heartbeat.rate.bps or rate_bps
        link = replace(self.link, rate_bps=rate_bps)
        if self.profile.link.rtt_s:
            return link
        rtt_s = (self.heartbeat.clear_rtt_s or 0.0) - link.airtime_s(2 * self.ping_bits, 2)
        return replace(link, rtt_s=max(0.0, rtt_s))

    def target_link(self) -> Link:
        """Of a target. What nobody has said anything of is a wire, on which messages take no time
        that matters."""
        declared = self.profile.link
        if declared.air or declared.rate_bps:
            return self.measured_link()
        return Link(rtt_s=declared.rtt_s or self.heartbeat.rtt_s or 0.0)

    def text_sent(self, num_bytes: int, air: Air, now: float) -> None:
        """A text is on its way to it, whole or its first piece: on its medium others have turns
        after that."""
        if self.link.medium:
            bits = 8 * num_bytes + HEADER_BITS
            air[self.link.medium].reserve(now, now, self.measured_link().airtime_s(bits, 1))

    def pace_heartbeats(self, interval_s: float, timeout_s: float) -> None:
        """Have heartbeats take a small part of the link, however narrow that is: on one of 50
        kbit/s two a second would take a tenth of its air from all that share it.

        interval_s, timeout_s: of Pings and of silence, where the link does not matter.
        """
        alone_s = self.measured_link().airtime_s(2 * self.ping_bits, 2)
        # Pongs tell of progress, too.
        most_s = self.progress_timeout_s / _PONGS_A_TIMEOUT
        period_s = min(alone_s / _HEARTBEAT_SHARE, most_s)
        self.heartbeat.period_s = max(interval_s, period_s)
        self.heartbeat.interval_s = max(interval_s, min(period_s, timeout_s / LEAST_INTERVALS))

    @property
    def used_cells(self) -> int:
        """Cells that a target's streams take, with room for each to grow."""
        return self.scheduler.cells if self.scheduler is not None else 0

    def has_room(self, cells: int, num_streams: int = 1) -> bool:
        """For streams that need so many cells together; none before it has answered its probe."""
        scheduler = self.scheduler
        return (
            scheduler is not None
            and self.unproved_since is None
            and scheduler.num_streams + num_streams <= self.profile.max_streams
            and self.used_cells + cells <= self.profile.num_cells
        )

    def draft_for(self, scheduler: Scheduler) -> list[Instruction]:
        """Have a target's scheduler count on it, with what is known of it by now."""
        known = self.costs, self.measured_link(), self.profile.max_streams
        return scheduler.draft_joined(self.name, *known)

    def can_draft_for(self, target: NodeRecord) -> bool:
        """A target that cannot take guesses back is served plainly."""
        can_take_back = target.profile.can_roll_back
        return can_take_back and same_vocabulary(self.profile, target.profile)
