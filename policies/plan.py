"""The one call every policy answers: observations in, a plan out. No clock, no I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from policies.latency import NodeCosts


@dataclass(frozen=True, slots=True)
class StreamView:
    """What a policy may know of one stream that waits for its next tokens.

    alpha: probability that a guess is accepted. fixed_gamma: asked for by the client, or None.
    draft: costs of the draft node that holds the stream, None where none does.
    """

    stream_id: int
    alpha: float
    tokens_left: int
    fixed_gamma: int | None = None
    draft: NodeCosts | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Observation:
    """Streams ready for a new round, and what their target costs.

    num_rounds_in_flight: rounds being drafted or verified. num_others: streams they hold.
    rtt_s: round trip to the draft nodes.
    """

    ready: tuple[StreamView, ...]
    target: NodeCosts | None = None
    num_rounds_in_flight: int = 0
    num_others: int = 0
    rtt_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Streams that are drafted and verified together, with each one's cap on guesses."""

    stream_ids: tuple[int, ...]
    gammas: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Batches to start now; streams in none of them wait. reasons: why a stream got gamma 0."""

    batches: tuple[Batch, ...] = ()
    reasons: dict[int, str] = field(default_factory=dict)


Policy: TypeAlias = Callable[[Observation], Plan]
