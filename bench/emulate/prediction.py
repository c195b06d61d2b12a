"""Predict when the batches of a cell's stations arrive, by the closed forms of policies."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, replace

import numpy as np

from bench.emulate.cell import Cell
from bench.emulate.peers import GRANT
from bench.emulate.proxy import HEADER_BYTES, SEGMENT_BYTES
from policies.acceptance import Floats
from policies.airtime import (
    airtime_s,
    batch_shares,
    batch_time_s,
    grant_order,
    turn_times_s,
)


@dataclass(frozen=True, slots=True)
class Load:
    """Airtime of a batch of each station, (n,) seconds each.

    data_s: all segments of a batch. ack_s: one acknowledgement; each segment gets one. grant_s: one
    grant. num_segments: segments of a batch.
    """

    data_s: Floats
    ack_s: Floats
    grant_s: Floats
    num_segments: int

    @property
    def until_arrived_s(self) -> Floats:
        """(n,) airtime until a batch has arrived if a station's two directions alternate.

        The last two acknowledgements come after it, because each acknowledgement is queued when the
        next segment is already on the air.
        """
        return self.data_s + max(0, self.num_segments - 2) * self.ack_s

    def of(self, station: int) -> Load:
        """Return the load of one station alone, by its index."""
        only = [station]
        return replace(
            self, data_s=self.data_s[only], ack_s=self.ack_s[only], grant_s=self.grant_s[only]
        )


def load(cell: Cell, batch_bytes: int) -> Load:
    """Return the load of one batch per station.

    Raises ValueError unless a batch is 1 to 10 whole segments, which TCP sends at once.
    """
    num_segments, rest = divmod(batch_bytes, SEGMENT_BYTES)
    if rest or not 1 <= num_segments <= 10:
        raise ValueError(
            f"a batch must be 1 to 10 segments of {SEGMENT_BYTES} bytes, got {batch_bytes} bytes"
        )
    rates = [station.rate_bps for station in cell.stations]

    def alone_s(num_bytes: int, frames: int) -> Floats:
        return airtime_s(num_bytes * 8, frames, rates, cell.frame_s)

    wire_bytes = batch_bytes + num_segments * HEADER_BYTES
    return Load(
        data_s=alone_s(wire_bytes, num_segments),
        ack_s=alone_s(HEADER_BYTES, 1),
        grant_s=alone_s(HEADER_BYTES + len(GRANT), 1),
        num_segments=num_segments,
    )


def order(load: Load) -> tuple[int, ...]:
    """Return the indices of stations in the order of their grants: by s_k."""
    return tuple(int(k) for k in grant_order(load.data_s, np.ones(len(load.data_s))))


def turns_s(load: Load) -> Floats:
    """(n,) arrival times with grants in turn, each after the last batch's acknowledgements."""
    acknowledged_s = load.data_s + load.num_segments * load.ack_s
    after_s = acknowledged_s - load.until_arrived_s
    # The grant is acknowledged, too.
    whole_s = load.grant_s + load.ack_s + acknowledged_s
    return turn_times_s(whole_s, list(order(load))) - after_s


def shares(load: Load) -> Floats:
    """(n,) shares with which all batches arrive together at the earliest time: (i)."""
    return batch_shares(load.until_arrived_s)


def shares_s(load: Load) -> float:
    """Return the common arrival time with `shares`."""
    return batch_time_s(load.until_arrived_s)


def slots_s(load: Load) -> Floats:
    """(n,) arrival times with a reserved share of 1/n each."""
    return load.until_arrived_s * len(load.until_arrived_s)


def granted_contention_s(load: Load, window: int) -> float:
    """Return the expected arrival of the last batch if stations contend, but send by grants.

    Then only a batch's segments and their acknowledgements collide.
    """
    turns = order(load)
    return sum(
        float(load.grant_s[k] + load.ack_s[k])
        + contention_s(load.of(k), window, acknowledged=k != turns[-1])
        for k in turns
    )


def contention_s(load: Load, window: int, *, acknowledged: bool = False) -> float:
    """Return the expected arrival of the last batch under contention, collisions included.

    acknowledged: return the time of the hub's last acknowledgement instead.

    The result is exact if each station's frames are equal, the hub contends with acknowledgements,
    and all draws are first ones. It neglects wider windows of later draws and the slots themselves
    (microseconds).
    """
    data_s = load.data_s / load.num_segments
    ack_s = float(load.ack_s.mean())

    @functools.cache
    def left_s(segments: tuple[int, ...], num_acks: int) -> float:
        if not any(segments):
            return num_acks * ack_s if acknowledged else 0.0
        who = [k for k, count in enumerate(segments) if count]
        airs = [float(data_s[k]) for k in who] + [ack_s] * (num_acks > 0)
        fails, costs_s = _collisions(tuple(airs), window)
        total = 0.0
        for k, air_s in zip([*who, -1], airs, strict=False):
            after = tuple(count - (place == k) for place, count in enumerate(segments))
            total += air_s + left_s(after, num_acks + (1 if k >= 0 else -1))
        return total / len(airs) + costs_s / (1.0 - fails)

    return left_s((load.num_segments,) * len(data_s), 0)


@functools.cache
def _collisions(airs_s: tuple[float, ...], window: int) -> tuple[float, float]:
    """Return the probability that a draw collides, and the expected seconds lost by it.

    A collision takes as long as the longest of the frames that are tied.
    """
    fails, costs_s = 0.0, 0.0
    for size in range(2, len(airs_s) + 1):
        later = len(airs_s) - size
        tied = sum(((window - 1 - slot) / window) ** later for slot in range(window)) / window**size
        for group in itertools.combinations(airs_s, size):
            fails += tied
            costs_s += tied * max(group)
    return fails, costs_s
