"""Which machine gets which layers of a model that several machines run together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, product
from typing import Final

from airdraft.policies.latency import CostTable

# The share of a machine's free memory that layers may take: the rest is for the cache and buffers.
LAYERS_OF_FREE: Final = 0.75
# What counts of the output layer where shares are compared. Passes of streams read all of it and
# prompts do not use it, and for both no machine should wait for the other. With Qwen2.5-Coder 1.5B
# on two equal machines and 0, 0.5 and 1 of it, 16 streams took 0.68 to 0.74, 0.61 to 0.69 and 0.60
# to 0.83 of the time of one machine, and a prompt of 2,000 tokens 0.59 to 0.63, 0.62 to 0.67 and
# 0.66 to 0.77 (two or three runs each, 2026-12-03).
_HEAD: Final = 0.5
# Shares are compared by passes of so many tokens, which is how prompts and many streams pass.
_COMPARED_TOKENS: Final = 16
# A prediction with guesses takes the number of them in a pass that is best for this acceptance.
_ACCEPTANCE: Final = 0.75
_MOST_GUESSES: Final = 7


@dataclass(frozen=True, slots=True)
class Layers:
    """sizes: bytes of each block. head: bytes of the output layer, which the last machine has.
    cuts: the blocks with which a machine can begin, but for the first one."""

    sizes: Sequence[int]
    head: int
    cuts: Sequence[int]


@dataclass(frozen=True, slots=True)
class Machine:
    """room_bytes: memory that layers can take. byte_s: seconds of a pass by its tokens, for each
    byte of the layers. rtt_s: round trip to it from the last machine."""

    room_bytes: float
    byte_s: CostTable
    rtt_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Share:
    """What one machine gets: the blocks from `first` to before `end`, with so many bytes."""

    name: str
    first: int
    end: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Rates:
    """Predicted tokens/s of all texts together; guesses are three right ones of four."""

    plain: float
    with_guesses: float


def cuts_for(layers: Layers, machines: Sequence[Machine]) -> list[int]:
    """Returns the first block of each machine but the first one.

    Machines have consecutive blocks in their order. The slowest one takes as little time as memory
    allows: then prompts, and the passes of many streams, keep all of them busy. Returns [] if the
    blocks do not fit, or if there are too few places to cut.
    """
    sums, count = [0, *accumulate(layers.sizes)], len(layers.sizes)
    ends = [*layers.cuts, count]
    # For each number of first blocks: the time of the slowest of the machines so far, and their
    # cuts, of which the last one is that number.
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for number, machine in enumerate(machines, start=1):
        head = layers.head if number == len(machines) else 0
        found: dict[int, tuple[float, list[int]]] = {}
        for (first, (slowest, cuts)), end in product(best.items(), ends):
            if end <= first:
                continue
            seconds = max(slowest, _share_s(sums[end] - sums[first], head, machine))
            if end not in found or seconds < found[end][0]:
                found[end] = seconds, [*cuts, end]
        best = found
    slowest, found_ends = best.get(count, (math.inf, []))
    return found_ends[:-1] if slowest < math.inf else []


def slowest_s(layers: Layers, machines: Sequence[Machine], cuts: Sequence[int]) -> float:
    """Returns the seconds of the slowest machine; infinite if something does not fit."""
    return max(itertools.starmap(_share_s, _shares(layers, machines, cuts)))


def _share_s(used: int, head: int, machine: Machine) -> float:
    """Returns a machine's seconds for blocks of so many bytes, as shares are compared."""
    if not used or used + head > machine.room_bytes:
        return math.inf
    return (used + _HEAD * head) * machine.byte_s.at(_COMPARED_TOKENS)


def _shares(
    layers: Layers, machines: Sequence[Machine], cuts: Sequence[int]
) -> list[tuple[int, int, Machine]]:
    bounds = pairwise([0, *cuts, len(layers.sizes)])
    used = [sum(layers.sizes[first:end]) for first, end in bounds]
    heads = [0] * len(cuts) + [layers.head]
    return list(zip(used, heads, machines, strict=True))


def pass_s(
    layers: Layers, machines: Sequence[Machine], cuts: Sequence[int], num_tokens: int
) -> float:
    """Returns the predicted seconds of a pass in one piece, for which machines work in turn."""
    return sum(
        (used + head) * machine.byte_s.at(num_tokens) + machine.rtt_s
        for used, head, machine in _shares(layers, machines, cuts)
    )


def rates_of(
    layers: Layers, machines: Sequence[Machine], cuts: Sequence[int], num_streams: int
) -> Rates:
    """Returns the tokens/s of so many texts. Reading of cells, and making guesses, is not in it."""
    found = list[float]()
    for guesses in range(_MOST_GUESSES + 1):
        made = sum(_ACCEPTANCE**number for number in range(guesses + 1))
        seconds = pass_s(layers, machines, cuts, num_streams * (1 + guesses))
        found.append(num_streams * made / seconds)
    return Rates(found[0], max(found))


def shares_of(layers: Layers, machines: Mapping[str, Machine], cuts: Sequence[int]) -> list[Share]:
    """Returns what each machine gets. machines: by name, in the order of their blocks."""
    bounds = pairwise([0, *cuts, len(layers.sizes)])
    return [
        Share(name, first, end, sum(layers.sizes[first:end]))
        for name, (first, end) in zip(machines, bounds, strict=True)
    ]


def told_plan(layers: Layers, machines: Mapping[str, Machine], cuts: Sequence[int]) -> str:
    """Returns who has what, and what is predicted for one text and for four, in words.

    They are bounds: a mesh of Qwen2.5-Coder 1.5B on two cores had 12.3 and 14.7 tokens/s where the
    layers alone take the time of some 20 (2026-12-03).
    """
    told = [
        f"{share.name} has the blocks {share.first} to {share.end - 1} "
        f"({share.num_bytes / 1e9:.2f} GB)"
        for share in shares_of(layers, machines, cuts)
    ]
    each = list(machines.values())
    one, four = (rates_of(layers, each, cuts, count) for count in (1, 4))
    return (
        f"{', '.join(told)}: "
        f"at most {one.plain:.1f} tokens/s for one text and {four.plain:.1f} for four, or "
        f"{one.with_guesses:.1f} and {four.with_guesses:.1f} with guesses that are right three "
        f"times of four"
    )


def told_no_room(layers: Layers, machines: Mapping[str, Machine]) -> str:
    """Returns why there are no cuts_for these machines, in words."""
    if len(machines) > 1 + len(layers.cuts):
        return f"it can be cut for {1 + len(layers.cuts)} machines at most"
    total = sum(layers.sizes) + layers.head
    rooms = ", ".join(f"{name} {each.room_bytes / 1e9:.1f} GB" for name, each in machines.items())
    return (
        f"it has {len(layers.sizes)} blocks of {total / 1e9:.1f} GB in all, for which there is no "
        f"room on {rooms} (a quarter of free memory is left alone)"
    )
