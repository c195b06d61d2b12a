"""Streams that wait for their guesses and are verified together. Pure.

Where a pass with guesses takes no longer than one without, and draft nodes are not much faster than
the target, it pays to wait for guesses. The coordinator's plan sets which streams wait, for how
many guesses, and how long at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nodes.target.stream import TargetStream


@dataclass(frozen=True, slots=True)
class Hold:
    """What a stream waits for.

    group: number of the group whose streams are verified together. num_guesses: guesses that it
    waits for. most_s: seconds after its last token at which its wait ends at the latest.
    """

    group: int
    num_guesses: int
    most_s: float


def ready_at(stream: TargetStream) -> float:
    """Returns the time when a stream's wait ends; -inf if it waits for nothing (any longer)."""
    hold = stream.hold
    if hold is None:
        return -math.inf
    guesses, _ = stream.buffer.after(len(stream.token_ids))
    if len(guesses) >= min(hold.num_guesses, stream.tokens_left - 1):
        return -math.inf
    return stream.last_commit_at + hold.most_s


def eligible_at(streams: Iterable[TargetStream]) -> dict[int, float]:
    """Returns for each group the time when the waits of all its members have ended."""
    found: dict[int, float] = {}
    for stream in streams:
        if stream.hold is not None:
            group = stream.hold.group
            found[group] = max(found.get(group, -math.inf), ready_at(stream))
    return found


def patience_s(decoding: Sequence[TargetStream], now: float) -> float:
    """Returns the seconds until the first group's wait ends; 0.0 if a stream is in no group."""
    if not all(stream.hold for stream in decoding):
        return 0.0
    return max(0.0, min(eligible_at(decoding).values(), default=now) - now)


def waiting_groups(decoding: Iterable[TargetStream], now: float) -> frozenset[int]:
    """Returns the groups that still wait for guesses."""
    return frozenset(group for group, at in eligible_at(decoding).items() if at > now)
