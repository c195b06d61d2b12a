"""How many streams each draft node of one medium should have. Pure.

All streams of a round wait for all of its messages on the medium: a node more costs every one of
them a request and an answer, and saves only what fewer streams a node take less to guess for. So
the fewest nodes share the streams that do nearly as well as any.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Which of two is better is not told from less; and who changes pays for it.
_ALIKE = 0.05
# Streams are given out in so many parts, or two for each node.
_LEAST_PARTS = 32


@dataclass(frozen=True, slots=True)
class Sharer:
    """A draft node as it is compared with those beside it.

    draft_s, air_s: seconds that it guesses, and that its messages take of the medium, in a typical
    round of so many streams. held: streams it has; room: it may have at most.
    """

    draft_s: Callable[[int], float]
    air_s: Callable[[int], float]
    held: int
    room: int


def longest_s(sharers: Sequence[Sharer], counts: Sequence[int]) -> float:
    """Seconds of a round of so many streams of each, without the way; who has none is not asked.

    Half of what the others have on the air is in a node's way, as in `policies/cycle.py`.
    """
    asked = [(each, count) for each, count in zip(sharers, counts, strict=True) if count]
    airs_s = [each.air_s(count) for each, count in asked]
    shared_s = sum(airs_s)
    rounds_s = (
        max(shared_s, each.draft_s(count) + (shared_s + air_s) / 2)
        for (each, count), air_s in zip(asked, airs_s, strict=True)
    )
    return max(rounds_s, default=0.0)


def shares(sharers: Sequence[Sharer], num_streams: int) -> list[int]:
    """Streams of each where so many are shared out anew. Those that find no room are left out."""
    most_held = max((each.held for each in sharers), default=0)

    def alone_s(place: int) -> tuple[float, int]:
        each = sharers[place]
        alone_s = each.draft_s(num_streams) + each.air_s(num_streams)
        return alone_s * (1.0 - _ALIKE * each.held / max(1, most_held)), place

    order = sorted(range(len(sharers)), key=alone_s)
    # Small ones may be quick, but are no use alone.
    roomy = [place for place in order if sharers[place].room >= num_streams]
    best: list[int] = [0] * len(sharers)
    best_s = 0.0
    for chosen in [roomy[:1], *(order[:size] for size in _sizes(len(order)))]:
        counts = _given_out(sharers, chosen, num_streams)
        round_s = longest_s(sharers, counts)
        is_better = sum(counts) == sum(best) and round_s < best_s * (1.0 - _ALIKE)
        if sum(counts) > sum(best) or is_better:
            best, best_s = counts, round_s
    return best


def _sizes(most: int) -> list[int]:
    """Numbers of nodes that are tried: all small ones, then half as many more each."""
    sizes = []
    size = 1
    while size < most:
        sizes.append(size)
        size += max(1, size // 2)
    return [*sizes, most] if most else []


def _given_out(sharers: Sequence[Sharer], chosen: Sequence[int], num_streams: int) -> list[int]:
    """Streams one part after the other, each to the one of them that then answers soonest."""
    counts = [0] * len(sharers)
    part = -(-num_streams // max(_LEAST_PARTS, 2 * len(chosen)))
    left = num_streams

    def next_of(order: int, place: int) -> tuple[float, int, int]:
        return sharers[place].draft_s(counts[place] + part), order, place

    heap = [next_of(order, place) for order, place in enumerate(chosen) if sharers[place].room > 0]
    heapq.heapify(heap)
    while left > 0 and heap:
        _, order, place = heapq.heappop(heap)
        size = min(part, left, sharers[place].room - counts[place])
        counts[place] += size
        left -= size
        if counts[place] < sharers[place].room:
            heapq.heappush(heap, next_of(order, place))
    return counts
