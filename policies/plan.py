"""The one call every policy answers: observations in, a plan out. No clock, no I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeAlias

from policies.latency import NodeCosts

# A plan asks a model for no more guesses; clients may, up to what the wire allows.
MAX_AUTO_GAMMA = 8
# Nor whoever guesses for nothing: only the target's pass limits it, and what messages hold.
MAX_FREE_GAMMA = 16
# What a message costs on a link: its envelope, and what ZeroMQ and CURVE add (101 bytes, counted by
# `bench wire`), TCP and IP (52); an entry for each stream.
HEADER_BITS = 8 * 153
ENTRY_BITS = 8 * 10
# Of a medium, that texts may take from the messages of rounds in what is planned.
_MOST_TOLD_SHARE = 0.5
# Text that comes with a committed token, on average.
TEXT_BITS = 8 * 4


@dataclass(frozen=True, slots=True)
class Link:
    """The way from the coordinator to a node.

    rate_bps: bit/s when the link has its medium alone; infinite where it never matters.
    medium: what it shares with other links ("cell-a"); "" for a medium of its own.
    frame_s: fixed seconds of the medium a message takes, whatever its size.
    shares: senders have parts of the medium all the time, instead of turns.
    """

    rate_bps: float = math.inf
    rtt_s: float = 0.0
    medium: str = ""
    frame_s: float = 0.0
    shares: bool = False

    def __post_init__(self) -> None:
        if not self.rate_bps > 0:
            raise ValueError(f"a link cannot have a rate of {self.rate_bps:g} bit/s")
        if not (0 <= self.rtt_s < math.inf and 0 <= self.frame_s < math.inf):
            raise ValueError("the times of a link are finite and not negative")

    @property
    def is_free(self) -> bool:
        """Whether messages take nothing of its medium."""
        return self.rate_bps == math.inf and self.frame_s == 0.0

    def beside_texts(self, share: float) -> Link:
        """What messages of rounds have of it where texts take a share of its medium."""
        free = 1.0 - min(_MOST_TOLD_SHARE, share)
        return replace(self, rate_bps=self.rate_bps * free, frame_s=self.frame_s / free)

    def airtime_s(self, bits: float, num_frames: int) -> float:
        """Seconds of the medium that messages take: f o + D / R, of f frames, D bits."""
        return num_frames * self.frame_s + bits / self.rate_bps


@dataclass(frozen=True, slots=True)
class DraftView:
    """A draft node as a policy sees it.

    used_cells: of its cache, at present. max_gamma: guesses of a round that a plan may ask it for.
    """

    name: str
    costs: NodeCosts
    link: Link = Link()
    used_cells: int = 0
    max_gamma: int = MAX_AUTO_GAMMA


@dataclass(frozen=True, slots=True)
class StreamView:
    """What a policy may know of one stream.

    alpha: probability that a guess is accepted. alphas: the same by position of the guess, where
    enough is known ((g,), given that all before were accepted); positions beyond take `alpha`.
    fixed_gamma: asked for by the client, or None. draft: the node that guesses for the stream, now
    or as soon as it has read the prompt; None where none does. kept: probability that a guess is
    made once those before it were: the draft node may stop before its cap (`Batch.stops`), and
    alpha counts what was not made as not accepted. starts: probability that the first guess is
    made, where that is known by itself; None for `kept`. extra_s: seconds that its tokens take in a
    target pass beyond the mean stream's, each one; negative where its text is shorter.
    """

    stream_id: int
    alpha: float
    tokens_left: int
    fixed_gamma: int | None = None
    draft: str | None = None
    weight: float = 1.0
    alphas: tuple[float, ...] = ()
    kept: float = 1.0
    starts: float | None = None
    extra_s: float = 0.0


class Kind(Enum):
    """What plans have in common that leave the same things out of what they promise.

    Nobody guesses; all do, in one batch or in two; some do in as few; some or all do in more.
    """

    PLAIN = "plain"
    ONE = "one"
    TWO = "two"
    MIXED = "mixed"
    CROWDED = "crowded"


_LEAST_CROWDED_BATCHES = 3


def kind_of(num_batches: int, num_plain: int) -> Kind:
    """Of a plan with so many batches in which somebody guesses, and so many plain streams."""
    if not num_batches:
        return Kind.PLAIN
    if num_batches >= _LEAST_CROWDED_BATCHES:
        return Kind.CROWDED
    if num_plain:
        return Kind.MIXED
    return Kind.ONE if num_batches == 1 else Kind.TWO


@dataclass(frozen=True, slots=True)
class Slowness:
    """Seconds that plans take for one in which plain decoding gives what it promises, by kind."""

    one: float = 1.0
    two: float = 1.0
    mixed: float = 1.0
    crowded: float = 1.0

    def of(self, kind: Kind) -> float:
        return 1.0 if kind is Kind.PLAIN else float(getattr(self, kind.value))


UNKNOWN_SLOWNESS = Slowness()


@dataclass(frozen=True, slots=True)
class Observation:
    """All active streams of one target, and what its passes and its draft nodes cost.

    prefill_share: part of the target's time that prompts take, in [0, 1).
    token_bits: what a token id takes on a link, 16 or 32. slowness: what plans have yielded of what
    they promised; ahead_overrun: how much longer than others cycles have taken that are drafted
    ahead, as they slow a target on the same machine, at least 1. target_link: what messages to and
    from the target take of its medium; its round trip is in the links of the draft nodes, for
    rounds wait for it and plain passes do not.
    """

    streams: tuple[StreamView, ...]
    target: NodeCosts | None = None
    drafts: tuple[DraftView, ...] = ()
    used_cells: int = 0
    prefill_share: float = 0.0
    token_bits: int = 32
    slowness: Slowness = UNKNOWN_SLOWNESS
    ahead_overrun: float = 1.0
    target_link: Link = Link()


@dataclass(frozen=True, slots=True)
class Batch:
    """Streams that are drafted and verified together, with each one's cap on guesses.

    stops: for each, the least chance of being accepted at which a guess is worth its costs; none
    at all: every guess up to the cap is made. ahead: while its guesses are verified, draft nodes
    make those of the next round, as if all were accepted.
    """

    stream_ids: tuple[int, ...]
    gammas: tuple[int, ...]
    stops: tuple[float, ...] = ()
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class BatchTimes:
    """Predicted seconds of one batch: the longest draft, all its air, its verify, its lap."""

    draft_s: float
    air_s: float
    verify_s: float
    lap_s: float
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a plan is expected to give.

    cycle_s: seconds until every batch has gone round once. bound: what makes it so long.
    price_s: the objective, the weighted sum over streams of seconds a token
    (`policies/cycle.py`), times how much slower than promised plans of the kind have been.
    tokens_per_s: of all streams together. ahead_gain: part of all this that drafting ahead saves.
    """

    cycle_s: float
    bound: str
    price_s: float
    tokens_per_s: float
    batches: tuple[BatchTimes, ...] = ()
    ahead_gain: float = 0.0


@dataclass(frozen=True, slots=True)
class Rejected:
    """The best plan with guesses where there are none, or without where there are some."""

    name: str
    price_s: float


@dataclass(frozen=True, slots=True)
class Option:
    """A plan that may be had instead. price_s: as Plan.price_s. cycle_s: 0.0 if that is not known.
    plan: makes it."""

    kind: Kind
    price_s: float
    cycle_s: float
    plan: Callable[[], Plan]


@dataclass(frozen=True, slots=True)
class Plan:
    """Batches that circulate, and streams that the target decodes plainly beside them.

    A stream in neither is taken as plain. min_cycle_s: a batch starts no sooner after its last
    start; plain streams get the target meanwhile. overlap: False lets one batch go at a time.
    equal_shares: links of a medium send at once, each at an equal share, instead of in turns.
    is_cheapest: the policy looked for the least price, so that a plan in force that does nearly
    as well may be kept. grants: draft nodes in the order of their turns, batch by batch.
    reasons: why a stream got gamma 0. others: the best plans of other kinds, where the policy
    compared them; whoever puts a plan in force needs them no longer.
    """

    batches: tuple[Batch, ...] = ()
    plain: tuple[int, ...] = ()
    reasons: Mapping[int, str] = field(default_factory=dict)
    policy: str = ""
    min_cycle_s: float = 0.0
    overlap: bool = True
    equal_shares: bool = False
    is_cheapest: bool = False
    grants: tuple[tuple[str, ...], ...] = ()
    prediction: Prediction | None = None
    rejected: Rejected | None = None
    others: tuple[Option, ...] = field(default=(), compare=False, repr=False)

    @property
    def kind(self) -> Kind:
        return kind_of(len(self.batches), len(self.plain))

    @property
    def price_s(self) -> float:
        """What it is expected to cost, with what drafting ahead saves; 0.0 if that is not known."""
        made = self.prediction
        return made.price_s * (1.0 - made.ahead_gain) if made is not None else 0.0


Policy: TypeAlias = Callable[[Observation], Plan]
