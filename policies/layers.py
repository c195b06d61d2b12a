"""Which machine gets which layers of a model that several machines run together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

# So often the time of the slowest machine is halved in the search for the shortest one.
_STEPS: Final = 60


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
    if len(sizes) < len(machines):
        return []
    low, high = 0.0, sum(sizes) / min(machine.bytes_per_s for machine in machines)
    found = _within(sizes, machines, high)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if cuts := _within(sizes, machines, middle):
            found, high = cuts, middle
        else:
            low = middle
    return found


def _within(sizes: Sequence[int], machines: Sequence[Machine], seconds: float) -> list[int]:
    """Returns cuts with which no machine takes longer; [] if there are none."""
    cuts, at = list[int](), 0
    for number, machine in enumerate(machines):
        most = min(machine.room_bytes, seconds * machine.bytes_per_s)
        # Each of the machines behind this one has a block at least.
        last = len(sizes) - (len(machines) - 1 - number)
        end, used = at, 0.0
        while end < last and used + sizes[end] <= most:
            used += sizes[end]
            end += 1
        if end == at:
            return []
        at = end
        cuts.append(at)
    return cuts[:-1] if at == len(sizes) else []


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
