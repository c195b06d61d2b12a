"""The one call every policy answers: observations in, a plan out. No clock, no I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from policies.latency import NodeCosts

# A plan asks a model for no more guesses; clients may, up to what the wire allows.
MAX_AUTO_GAMMA = 8
# What a message costs on a link: its envelope, and what ZeroMQ and CURVE add (101 bytes, counted by
# `bench wire`), TCP and IP (52); an entry for each stream.
HEADER_BITS = 8 * 153
ENTRY_BITS = 8 * 10
# Text that comes with a committed token, on average.
TEXT_BITS = 8 * 4


@dataclass(frozen=True, slots=True)
class Link:
    """The way from the coordinator to a node.

    rate_bps: bit/s when the link has its medium alone; infinite where it never matters.
    medium: what it shares with other links ("cell-a"); "" for a medium of its own.
    frame_s: fixed seconds of the medium a message takes, whatever its size.
    """

    rate_bps: float = math.inf
    rtt_s: float = 0.0
    medium: str = ""
    frame_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.rate_bps > 0:
            raise ValueError(f"a link cannot have a rate of {self.rate_bps:g} bit/s")
        if not (0 <= self.rtt_s < math.inf and 0 <= self.frame_s < math.inf):
            raise ValueError("the times of a link are finite and not negative")

    @property
    def is_free(self) -> bool:
        """Whether messages take nothing of its medium."""
        return self.rate_bps == math.inf and self.frame_s == 0.0

    def airtime_s(self, bits: float, num_frames: int) -> float:
        """Seconds of the medium that messages take: f o + D / R, of f frames, D bits."""
        return num_frames * self.frame_s + bits / self.rate_bps


@dataclass(frozen=True, slots=True)
class DraftView:
    """A draft node as a policy sees it.

    used_cells: of its cache, at present. max_gamma: guesses a stream that a plan may ask it for.
    share_up, share_down: of its medium in open flow, for its guesses and for what it is told.
    """

    name: str
    costs: NodeCosts
    link: Link = Link()
    used_cells: int = 0
    max_gamma: int = MAX_AUTO_GAMMA
    share_up: float = 1.0
    share_down: float = 1.0


@dataclass(frozen=True, slots=True)
class StreamView:
    """What a policy may know of one stream.

    alpha: probability that a guess is accepted. alphas: the same by position of the guess, where
    enough is known ((g,), given that all before were accepted); positions beyond take `alpha`.
    fixed_gamma: asked for by the client, or None. draft: the node that guesses for the stream, now
    or as soon as it has read the prompt; None where none does.
    """

    stream_id: int
    alpha: float
    tokens_left: int
    fixed_gamma: int | None = None
    draft: str | None = None
    weight: float = 1.0
    alphas: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Observation:
    """All active streams of one target, and what its passes and its draft nodes cost.

    prefill_share: part of the target's time that prompts take, in [0, 1).
    token_bits: what a token id takes on a link, 16 or 32. target_link: what messages to and from
    the target take of its medium; its round trip is in the links of the draft nodes, for guesses
    wait for it and plain passes do not. groups: streams that go together by the plan in force.
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
    """Streams that are drafted and verified together, with each one's number of guesses."""

    stream_ids: tuple[int, ...]
    gammas: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BatchTimes:
    """Predicted seconds of one batch: the longest draft, all its air, its verify, its round."""

    draft_s: float
    air_s: float
    verify_s: float
    round_s: float
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a plan is expected to give.

    cycle_s: seconds until every batch has gone round once. bound: what makes it so long.
    price_s: the objective, the weighted sum over streams of seconds a token
    (`policies/cycle.py`). tokens_per_s: of all streams together.
    """

    cycle_s: float
    bound: str
    price_s: float
    tokens_per_s: float
    batches: tuple[BatchTimes, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Batches that circulate, and streams that the target decodes plainly beside them.

    A stream in neither is taken as plain. min_cycle_s: a batch starts no sooner after its last
    start; plain streams get the target meanwhile. overlap: False lets one batch go at a time.
    equal_shares: the plan was priced for links of a medium that send at once, each at an equal
    share, instead of one after the other. grants: draft nodes in the order in which their messages
    are priced, batch by batch. reasons: why a stream got gamma
    0.
    """

    batches: tuple[Batch, ...] = ()
    plain: tuple[int, ...] = ()
    reasons: Mapping[int, str] = field(default_factory=dict)
    policy: str = ""
    min_cycle_s: float = 0.0
    overlap: bool = True
    equal_shares: bool = False
    grants: tuple[tuple[str, ...], ...] = ()
    prediction: Prediction | None = None


Policy: TypeAlias = Callable[[Observation], Plan]
