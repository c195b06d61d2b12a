"""Shares of an OFDMA cell's band with which all links finish together.

A link with the band b sends b log2(1 + c/b) bit/s. c = P h / N0 in Hz is the received power over
the noise density at the receiver.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from policies.airtime import Floats, amounts, climb, refuse_dead_links

_NEWTON_STEPS = 8
# u as a power series in 1 - q, the inverse of 1 - log1p(u)/u = u/2 - u^2/3 + u^3/4 - ...
_SERIES = (0.0, 2.0, 8 / 3, 28 / 9, 464 / 135, 1496 / 405, 11072 / 2835, 173728 / 42525)
# Below it u < 0.01 and the series has every digit; log1p(u) - q u has lost some.
_SERIES_BELOW = 0.005


def ofdma_rate_bps(band_hz: npt.ArrayLike, snr_hz: npt.ArrayLike) -> Floats:
    """Return the bit/s of links with bands b_k of their own: b log2(1 + c/b), and 0 for no band.

    band_hz, snr_hz: (n,), or one value for all. Shannon 1949.
    """
    band, snr = np.broadcast_arrays(amounts("bands", band_hz), amounts("snr_hz", snr_hz))
    ratio = np.divide(snr, band, out=np.zeros(band.shape), where=band > 0.0)
    return np.asarray(band * np.log1p(ratio) / math.log(2.0))


def uniform_band_time_s(
    bits: npt.ArrayLike,
    snr_hz: npt.ArrayLike,
    bandwidth_hz: float,
    names: Sequence[str] | None = None,
) -> float:
    """Return the seconds until the slowest of n links has finished, with a band of B/n each.

    Arguments and errors as those of ofdma_bands.
    """
    size, snr = _checked(bits, snr_hz, bandwidth_hz, names)
    if not size.size:
        return 0.0
    return float((size / ofdma_rate_bps(bandwidth_hz / size.size, snr)).max())


def ofdma_bands(
    bits: npt.ArrayLike,
    snr_hz: npt.ArrayLike,
    bandwidth_hz: float,
    names: Sequence[str] | None = None,
) -> tuple[Floats, float]:
    """Return bands (n,) in Hz with which all links finish together, soonest, and the seconds.

    bits, snr_hz: (n,) D_k and c_k. names: of the links, for errors. The bands sum to B; a link
    with nothing to send gets none. For a finish T and q = D ln2 / (c T) the
    band is c/u with log1p(u) = q u. Raises DeadLinkError for a c that is not positive, ValueError
    for other bad values.
    """
    size, snr = _checked(bits, snr_hz, bandwidth_hz, names)
    bands = np.zeros(size.shape)
    sends = size > 0.0
    if not sends.any():
        return bands, 0.0
    snr = snr[sends]
    # With an infinite band a link takes D ln2 / c. The unknown x is the relative excess of T over
    # the slowest such time: T = slowest (1 + x). So no digits are lost if x is small.
    endless_s = size[sends] * math.log(2.0) / snr
    slowest_s = endless_s.max()
    ratios = endless_s / slowest_s

    def bands_at(x: float) -> tuple[Floats, Floats]:
        """Bands for a finish at slowest (1 + x), and their growth with log(1/T)."""
        q = ratios / (1.0 + x)
        short = ((1.0 - ratios) + x) / (1.0 + x)
        u = _fill(q, short)
        return snr / u, snr / u * (1.0 + u) * q / (u * q - short)

    def step(x: float) -> float:
        """Return Newton's step on sum b = B in 1/T, in which every b is convex."""
        band, growth = bands_at(x)
        cut = float((band.sum() - bandwidth_hz) / growth.sum())
        return (1.0 + x) * cut / (1.0 - cut)

    # A lower bound: too soon even if every link had the whole band, by log1p(w) <= w / sqrt(1 + w).
    whole = snr / bandwidth_hz
    start = float((ratios * whole / (1.0 + np.sqrt(1.0 + whole)) - (1.0 - ratios)).max())
    x = climb(step, start)
    bands[sends] = bands_at(x)[0]
    return bands, float(slowest_s * (1.0 + x))


def _fill(q: Floats, short: Floats) -> Floats:
    """Return the root u > 0 of log1p(u) = q u for 0 < q < 1. short: 1 - q, exact to its last digit.

    Newton's method starts from an upper bound on a concave function, so it never passes the root.
    """
    safe = np.minimum(q, 1.0 - _SERIES_BELOW)
    u = np.minimum(1.0 / safe / safe - 1.0, 2.0 / safe * np.log(2.0 / safe))
    for _ in range(_NEWTON_STEPS):
        u = u - (np.log1p(u) - safe * u) / (1.0 / (1.0 + u) - safe)
    series = np.polynomial.polynomial.polyval(np.minimum(short, _SERIES_BELOW), _SERIES)
    return np.where(short < _SERIES_BELOW, series, u)


def _checked(
    bits: npt.ArrayLike, snr_hz: npt.ArrayLike, bandwidth_hz: float, names: Sequence[str] | None
) -> tuple[Floats, Floats]:
    if not 0.0 < bandwidth_hz < math.inf:
        raise ValueError(f"a cell cannot have a band of {bandwidth_hz:g} Hz")
    snr = np.atleast_1d(np.asarray(snr_hz, dtype=np.float64))
    refuse_dead_links(snr, "a signal-to-noise density of {:g} Hz", names)
    size, snr = np.broadcast_arrays(np.atleast_1d(amounts("bits", bits)), amounts("snr_hz", snr))
    return size, snr
