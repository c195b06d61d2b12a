"""Streams that wait for their guesses and are verified together. Pure.

Where passes are flat and draft nodes not much quicker than the target, a pass without guesses costs
as much as one with some: then it pays to wait for them. Which streams wait for which guesses, and
how long at most, is the coordinator's plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nodes.target.stream import TargetStream


@dataclass(frozen=True, slots=True)
class Hold:
    """group: number of the streams that go together. num_guesses: that a stream waits for. most_s:
    seconds since its last token after which it waits no longer."""

    group: int
    num_guesses: int
    most_s: float


def ready_at(stream: TargetStream) -> float:
    """When a stream has waited enough: at once if its guesses are here or it waits for none."""
    hold = stream.hold
    if hold is None:
        return -math.inf
    guesses, _ = stream.buffer.after(len(stream.token_ids))
    if len(guesses) >= min(hold.num_guesses, stream.tokens_left - 1):
        return -math.inf
    return stream.last_commit_at + hold.most_s


def eligible_at(streams: Iterable[TargetStream]) -> dict[int, float]:
    """When each group of these streams may go: when all its members may."""
    found: dict[int, float] = {}
    for stream in streams:
        if stream.hold is not None:
            group = stream.hold.group
            found[group] = max(found.get(group, -math.inf), ready_at(stream))
    return found


def patience_s(decoding: Sequence[TargetStream], now: float) -> float:
    """Seconds that a pass of these streams may wait: all of them wait for guesses."""
    if not all(stream.hold for stream in decoding):
        return 0.0
    return max(0.0, min(eligible_at(decoding).values(), default=now) - now)


def waiting_groups(decoding: Iterable[TargetStream], now: float) -> frozenset[int]:
    """Groups whose guesses are not there yet, and waited for."""
    return frozenset(group for group, at in eligible_at(decoding).items() if at > now)
