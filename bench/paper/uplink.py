"""Arrival times of prompts under several ways to share the band of the cell."""

from __future__ import annotations

import numpy as np

from bench.paper.ofdma import ofdma_bands, ofdma_rate_bps
from policies.acceptance import Floats


def together_s(bits: Floats, snr_hz: Floats, bandwidth_hz: float) -> Floats:
    """Return (n,) seconds with the bands that let all finish together, soonest."""
    return np.full(len(bits), ofdma_bands(bits, snr_hz, bandwidth_hz)[1])


def uniform_s(bits: Floats, snr_hz: Floats, bandwidth_hz: float) -> Floats:
    """Return (n,) seconds with the same constant band for all."""
    return np.asarray(bits / ofdma_rate_bps(bandwidth_hz / len(bits), snr_hz))


def in_groups_s(bits: Floats, snr_hz: Floats, bandwidth_hz: float, num_groups: int) -> Floats:
    """Return (n,) seconds if groups have the band in turn, those with the least to send first.

    Within a group all finish together.
    """
    arrived_s = np.zeros(len(bits))
    clock_s = 0.0
    for group in np.array_split(np.argsort(bits, kind="stable"), min(num_groups, len(bits))):
        clock_s += ofdma_bands(bits[group], snr_hz[group], bandwidth_hz)[1]
        arrived_s[group] = clock_s
    return arrived_s
