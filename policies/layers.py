"""Which machine gets which layers of a model that several machines run together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, product


@dataclass(frozen=True, slots=True)
class Machine:
    """room_bytes: memory that layers can take. bytes_per_s: what it reads of memory, which is what
    a pass of one token needs time for. rtt_s: round trip to it from the last machine."""

    room_bytes: float
    bytes_per_s: float
    rtt_s: float = 0.0


def cuts_for(sizes: Sequence[int], machines: Sequence[Machine]) -> list[int]:
    """Returns the first block of each machine but the first one.

    Machines have consecutive blocks in their order. The slowest one takes as little time as memory
    allows: then prompts, and the passes of many streams, keep all of them busy. sizes: bytes of
    each block, the last one with what else the last machine has. Returns [] if the blocks do not
    fit, or are fewer than the machines.
    """
    sums, count = [0, *accumulate(sizes)], len(sizes)
    # For each number of first blocks: the time of the slowest of the machines so far, and their
    # cuts, of which the last one is that number.
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for machine in machines:
        found: dict[int, tuple[float, list[int]]] = {}
        for (first, (slowest, cuts)), end in product(best.items(), range(1, count + 1)):
            used = sums[end] - sums[first]
            if end <= first or used > machine.room_bytes:
                continue
            seconds = max(slowest, used / machine.bytes_per_s)
            if end not in found or seconds < found[end][0]:
                found[end] = seconds, [*cuts, end]
        best = found
    return best[count][1][:-1] if count in best else []


def slowest_s(sizes: Sequence[int], machines: Sequence[Machine], cuts: Sequence[int]) -> float:
    """Returns the seconds of the slowest machine; infinite if something does not fit."""
    found = 0.0
    for used, machine in zip(_shares(sizes, cuts), machines, strict=True):
        if not 0 < used <= machine.room_bytes:
            return math.inf
        found = max(found, used / machine.bytes_per_s)
    return found


def _shares(sizes: Sequence[int], cuts: Sequence[int]) -> list[int]:
    return [sum(sizes[first:end]) for first, end in pairwise([0, *cuts, len(sizes)])]


def step_s(sizes: Sequence[int], machines: Sequence[Machine], cuts: Sequence[int]) -> float:
    """Returns the predicted seconds of a pass of one token: a bound by memory and round trips."""
    shares = zip(_shares(sizes, cuts), machines, strict=True)
    return sum(used / machine.bytes_per_s + machine.rtt_s for used, machine in shares)
