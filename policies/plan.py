"""The types of planning: a policy takes an observation and returns a plan. No clock, no I/O."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from airdraft.policies.latency import NodeCosts

# A plan gives no stream more guesses than this. Clients may ask for more, up to the wire's limit.
MAX_AUTO_GAMMA = 8
# Bits that a message adds on a link: its envelope with ZeroMQ and CURVE (some 100 bytes by the
# first table of `bench wire`: a CommitReply of one stream less what a second stream adds), and TCP
# and IP (52 bytes). Each stream in it adds an entry.
HEADER_BITS = 8 * 153
ENTRY_BITS = 8 * 10
# Mean bits of the text that is sent with a committed token.
TEXT_BITS = 8 * 4


@dataclass(frozen=True, slots=True)
class Link:
    """The link between the coordinator and a node.

    rate_bps: bit/s while no other link uses its medium; infinite for no limit. medium: name of the
    medium that it shares with other links ("cell-a"); "" for a medium of its own. frame_s: seconds
    of the medium that a message takes in addition to its bits.
    """

    rate_bps: float = math.inf
    rtt_s: float = 0.0
    medium: str = ""
    frame_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.rate_bps > 0:
            raise ValueError(f"the rate of a link is {self.rate_bps:g} bit/s, but must be positive")
        if not (0 <= self.rtt_s < math.inf and 0 <= self.frame_s < math.inf):
            raise ValueError("the times of a link must be finite and not negative")

    @property
    def is_free(self) -> bool:
        """Whether messages take no time of its medium."""
        return self.rate_bps == math.inf and self.frame_s == 0.0

    def airtime_s(self, bits: float, num_frames: int) -> float:
        """Returns the seconds of the medium that f frames with D bits in all take: f o + D / R."""
        return num_frames * self.frame_s + bits / self.rate_bps


@dataclass(frozen=True, slots=True)
class DraftView:
    """A draft node as a policy sees it.

    used_cells: used cells of its cache. other: how often, where a guess is wrong, one of another
    chain is right. share_up, share_down: its shares of the medium in open flow, for guesses and for
    messages to it.
    """

    name: str
    costs: NodeCosts
    link: Link = Link()
    used_cells: int = 0
    other: float = 0.0
    share_up: float = 1.0
    share_down: float = 1.0


@dataclass(frozen=True, slots=True)
class StreamView:
    """One stream as a policy sees it.

    alpha: probability that a guess is accepted if all before it are. fixed_gamma: number of guesses
    that the client fixed, or None. draft: the node that guesses for the stream, now or as soon as
    it has read the prompt; None if there is none.
    """

    stream_id: int
    alpha: float
    tokens_left: int
    fixed_gamma: int | None = None
    draft: str | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Observation:
    """All active streams of one target, with the costs of the target and its draft nodes.

    prefill_share: share of the target's time that prompts take, in [0, 1). token_bits: bits of a
    token id on a link, 16 or 32. target_link: the target's link; its round trip is contained in the
    links of the draft nodes, because guesses wait for it and plain passes do not. groups: the
    groups of streams in the plan in force.
    """

    streams: tuple[StreamView, ...]
    target: NodeCosts | None = None
    drafts: tuple[DraftView, ...] = ()
    used_cells: int = 0
    prefill_share: float = 0.0
    token_bits: int = 32
    target_link: Link = Link()
    groups: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """Streams that are drafted and verified together, with the number of guesses of each."""

    stream_ids: tuple[int, ...]
    gammas: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BatchTimes:
    """Predicted seconds of one batch: longest draft, all its airtime, its pass, its whole round.

    num_tokens: tokens of its pass.
    """

    draft_s: float
    air_s: float
    verify_s: float
    round_s: float
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """The predicted figures of a plan.

    cycle_s: seconds until every batch has completed a round. bound: the stage that limits it.
    price_s: the objective, which is the weighted sum over streams of seconds a token
    (`policies/cycle.py`). tokens_per_s: tokens a second of all streams together.
    """

    cycle_s: float
    bound: str
    price_s: float
    tokens_per_s: float
    batches: tuple[BatchTimes, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Batches that circulate, and streams that the target decodes plainly beside them.

    A stream in neither counts as plain.
    """

    batches: tuple[Batch, ...] = ()
    plain: tuple[int, ...] = ()
    policy: str = ""
    prediction: Prediction | None = None


Policy: TypeAlias = Callable[[Observation], Plan]
