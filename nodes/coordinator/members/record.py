"""The coordinator's records of targets and draft nodes. Pure."""

from __future__ import annotations

import hashlib
import itertools
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final

from airdraft.mesh.grants import Air
from airdraft.mesh.heartbeat import HeartbeatState
from airdraft.mesh.membership import Member
from airdraft.mesh.messages import Welcome
from airdraft.mesh.padding import SIZES
from airdraft.nodes.config.settings import LEAST_INTERVALS
from airdraft.nodes.messages import EngineProfile
from airdraft.nodes.messages.access import Role
from airdraft.nodes.scheduler.instructions import Instruction
from airdraft.nodes.scheduler.scheduler import Scheduler
from airdraft.nodes.scheduler.stream import Stream
from airdraft.nodes.worker.profile import same_vocabulary
from airdraft.nodes.worker.stream import StreamId, StreamSpec, cells_needed, cells_soon
from airdraft.policies.latency import CostTable, NodeCosts
from airdraft.policies.plan import HEADER_BITS, Link

# Shorter texts are read anew in a moment.
_HASHED_TOKENS: Final = 256
# Of four million tokens, more than a target keeps.
_MOST_HASHES: Final = 16_384

# A node that has work and reports no finished pass for this long counts as gone. The limit is
# _PROGRESS_PASSES of its longest passes if that is longer. Lost messages are repaired sooner.
PROGRESS_TIMEOUT_S = 30.0
_PROGRESS_PASSES = 8
# Passes after which the observed speed of a target counts. The first ones after a start are slow,
# because its weights are read from the disk.
_OBSERVED_PASSES = 8
_PONGS_A_TIMEOUT = 4
# Share of a link's time that Pings and Pongs may take.
_HEARTBEAT_SHARE = 0.02
# A Ping or Pong, and what CURVE, TCP and IP add to it: an emulated cell counts 111 bytes.
_PING_BYTES, _AROUND_BYTES = 14, 97


def ping_bits(*, pads: bool) -> int:
    """Returns the bits of a Ping or Pong on a link. pads: messages are padded to a few sizes."""
    return 8 * ((SIZES[0] if pads else _PING_BYTES) + _AROUND_BYTES)


@dataclass(slots=True, eq=False)
class NodeRecord:
    """What the coordinator knows of any node with an engine."""

    role: ClassVar[Role]
    name: str
    peer: bytes
    profile: EngineProfile
    costs: NodeCosts
    member: Member
    # As declared by the node; measured_link() adds what it has not declared.
    link: Link
    ping_bits: int
    # Seconds of work that the node has reported.
    busy_s: float = 0.0
    # Bytes that the coordinator received from the node, and those that it sent.
    bytes_in: int = 0
    bytes_out: int = 0
    # A draining target takes no new streams, and leaves when it has none left. Draft nodes leave at
    # once.
    is_draining: bool = False

    @property
    def num_streams(self) -> int:
        """The streams that a target serves; a draft node has none of its own."""
        return 0

    @property
    def heartbeat(self) -> HeartbeatState:
        return self.member.heartbeat

    @property
    def progress_timeout_s(self) -> float:
        cells, own = self.profile.num_cells, self.profile.max_length
        tables = self.costs.prefill, self.costs.decode
        longest_s = max(table.at(table.sizes[-1], cells, own) for table in tables)
        return max(PROGRESS_TIMEOUT_S, _PROGRESS_PASSES * longest_s)

    def measured_link(self) -> Link:
        """Returns the declared link, with measured round trip and rate where none were declared.

        The airtime of Ping and Pong is subtracted from the round trip, because the airtime of every
        message is counted separately.
        """
        rate_bps, clear_rtt_s = self.link.rate_bps, self.heartbeat.clear_rtt_s
        if self.profile.link.rate_bps == 0:
            rate_bps = self.heartbeat.rate.bps or rate_bps
            if clear_rtt_s:
                # A Ping crossed it within that time. So a node that was slow to answer when the
                # rate was measured does not keep it low: only large messages measure it, and over
                # a link that is taken for a narrow one all are small.
                rate_bps = max(rate_bps, self.ping_bits / clear_rtt_s)
        link = replace(self.link, rate_bps=rate_bps)
        if self.profile.link.rtt_s:
            return link
        rtt_s = (clear_rtt_s or 0.0) - link.airtime_s(2 * self.ping_bits, 2)
        return replace(link, rtt_s=max(0.0, rtt_s))

    def text_sent(self, num_bytes: int, air: Air, now: float) -> None:
        """Reserve the node's medium for a text, or its first piece, that has just been sent."""
        if self.link.medium:
            bits = 8 * num_bytes + HEADER_BITS
            air[self.link.medium].reserve(now, now, self.measured_link().airtime_s(bits, 1))

    def pace_heartbeats(self, welcome: Welcome) -> None:
        """Limit heartbeats to a small share of the link, however narrow it is.

        Two a second would take a tenth of a shared medium of 50 kbit/s. welcome: has the Ping
        interval and the silence limit of a fast link.
        """
        interval_s, timeout_s = welcome.heartbeat_interval_s, welcome.heartbeat_timeout_s
        alone_s = self.measured_link().airtime_s(2 * self.ping_bits, 2)
        # Pongs also report progress, so several must fit into the progress timeout.
        most_s = self.progress_timeout_s / _PONGS_A_TIMEOUT
        period_s = min(alone_s / _HEARTBEAT_SHARE, most_s)
        self.heartbeat.period_s = max(interval_s, period_s)
        self.heartbeat.interval_s = max(interval_s, min(period_s, timeout_s / LEAST_INTERVALS))


class KnownTexts:
    """What of texts a target has lately read, and so has probably kept.

    Texts are known by hashes of their beginnings, each with its owner, so nothing of them is kept
    here.
    """

    def __init__(self) -> None:
        # Those that were noted longest ago first.
        self._hashes: dict[bytes, None] = {}

    def note(self, owner: str, token_ids: Sequence[int]) -> None:
        """Note that the target reads a text."""
        # The ends of texts are forgotten first.
        for found in reversed(list(_beginnings(owner, token_ids))):
            self._hashes.pop(found, None)
            self._hashes[found] = None
        while len(self._hashes) > _MOST_HASHES:
            del self._hashes[next(iter(self._hashes))]

    def num_known(self, owner: str, token_ids: Sequence[int]) -> int:
        """Returns how many tokens of a text the target has read for its owner."""
        hashes = itertools.takewhile(self._hashes.__contains__, _beginnings(owner, token_ids))
        return _HASHED_TOKENS * sum(1 for _ in hashes)


def _beginnings(owner: str, token_ids: Sequence[int]) -> Iterator[bytes]:
    """Yield the hash of a text's first 256 tokens, of the first 512, and so on."""
    text = array("i", token_ids)
    begun = hashlib.blake2b(owner.encode(), digest_size=16)
    for end in range(_HASHED_TOKENS, len(text) + 1, _HASHED_TOKENS):
        begun.update(text[end - _HASHED_TOKENS : end].tobytes())
        yield begun.digest()


@dataclass(slots=True, eq=False)
class TargetRecord(NodeRecord):
    """A target with its scheduler."""

    role: ClassVar[Role] = Role.TARGET
    scheduler: Scheduler = field(kw_only=True)
    texts: KnownTexts = field(default_factory=KnownTexts)
    # Why it has the draft model in its process that it has, or has none.
    draft_why: str = ""
    # While its numerics class is not verified: when it was first and last sent a probe.
    unverified_since: float | None = None
    probed_at: float = -math.inf
    # When it last answered a PROOF, and so was alive when the suspect stream behind it came.
    proved_at: float = -math.inf

    @property
    def num_streams(self) -> int:
        return len(self.scheduler.streams)

    @property
    def streams(self) -> Mapping[StreamId, Stream]:
        return self.scheduler.streams

    def target_link(self) -> Link:
        """Returns the link of a target. An undeclared link counts as a wire, on which messages take
        negligible time."""
        declared = self.profile.link
        if declared.air or declared.rate_bps:
            return self.measured_link()
        return Link(rtt_s=declared.rtt_s or self.heartbeat.rtt_s or 0.0)

    @property
    def is_observed(self) -> bool:
        """Whether its speed is known by the passes that it made."""
        return self.scheduler.observed.num_passes >= _OBSERVED_PASSES

    @property
    def admitted_cells(self) -> int:
        """KV cells that admission counts for its streams, with room for each to grow."""
        return self.scheduler.admitted_cells

    @property
    def kind(self) -> tuple[str, ...]:
        return self.profile.model_hash, self.profile.numerics_class

    def can_hold(self, spec: StreamSpec) -> bool:
        """Whether a stream fits on this target while there is no other."""
        fits = spec.num_prompt_tokens + spec.max_tokens <= self.profile.context_length
        return fits and cells_needed(spec) <= self.profile.num_cells

    def has_room(self, streams: Sequence[Stream]) -> bool:
        """Whether streams fit beside the present ones; False before the probe's answer."""
        # Their cells are those that they take at first, as their target counts them.
        cells = sum(cells_soon(len(s.token_ids), s.tokens_left) for s in streams)
        return (
            self.unverified_since is None
            and len(self.streams) + len(streams) <= self.profile.max_streams
            and self.admitted_cells + cells <= self.profile.num_cells
            and all(self.can_hold(stream.spec) for stream in streams)
        )


@dataclass(slots=True, eq=False)
class DraftRecord(NodeRecord):
    """A draft node. The schedulers of all targets share its load (scheduler/drafts.py)."""

    role: ClassVar[Role] = Role.DRAFT

    def draft_for(self, scheduler: Scheduler) -> list[Instruction]:
        """Add this draft node to a target's scheduler, with its costs and link as known now."""
        known = self.costs, self.measured_link(), self.profile.max_streams
        return scheduler.draft_joined(self.name, *known)

    def can_draft_for(self, target: TargetRecord) -> bool:
        """Whether vocabularies match and the target can take guesses back."""
        return target.profile.can_take_back and same_vocabulary(self.profile, target.profile)


# What coordinator and operators see of a stage, which has no costs and takes no streams.
_NO_TIME = CostTable((1,), (1e-9,))
STAGE_PROFILE = EngineProfile(
    engine="llama.cpp",
    model="",
    model_hash="",
    vocab_hash="",
    numerics_class="",
    num_vocab=0,
    num_cells=0,
    max_streams=1,
    context_length=0,
    exact=False,
    can_take_back=False,
    emulated=False,
    decode=_NO_TIME,
    prefill=_NO_TIME,
)


@dataclass(slots=True, eq=False)
class StageRecord(NodeRecord):
    """A stage of a split model, to which targets have links of their own.

    endpoint, key: where it listens, and the key of that, once it has told. user: the name of the
    key that may use it.
    """

    role: ClassVar[Role] = Role.STAGE
    endpoint: str = ""
    key: str = ""
    user: str = ""
