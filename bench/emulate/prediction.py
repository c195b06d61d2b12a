"""Predict when the batches of a cell's stations arrive, by the closed forms of policies."""

from __future__ import annotations

from dataclasses import dataclass

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


def load(cell: Cell, batch_bytes: int) -> Load:
    """Return the load of one batch per station: some whole segments, which TCP sends at once."""
    num_segments = batch_bytes // SEGMENT_BYTES
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
