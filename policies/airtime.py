"""Closed forms for links that share one medium, in turns or with constant shares.

Everywhere s_k are the seconds of the medium that link k needs alone. A link that has nothing to
send (s_k = 0) needs no share.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class DeadLinkError(ValueError):
    """A link over which nothing can be sent. link: its name, or its index if it has none."""

    def __init__(self, link: str, what: str) -> None:
        super().__init__(f"link {link} has {what}: nothing can be sent over it")
        self.link = link


def airtime_s(
    bits: npt.ArrayLike,
    frames: npt.ArrayLike,
    rate_bps: npt.ArrayLike,
    frame_s: npt.ArrayLike,
    names: Sequence[str] | None = None,
) -> Floats:
    """Seconds of the medium that each link needs alone: s_k = f_k o + D_k / R_k.

    bits, frames, rate_bps: (n,); a rate may be infinite. frame_s: fixed seconds of a frame, one
    number or (n,). names: names of the links for errors. Returns (n,). Raises DeadLinkError for a
    rate that is not positive, and ValueError for other bad values.
    """
    rates = np.atleast_1d(np.asarray(rate_bps, dtype=np.float64))
    refuse_dead_links(rates, "a rate of {:g} bit/s", names)
    size, count = amounts("bits", bits), amounts("frames", frames)
    return np.asarray(count * amounts("seconds a frame", frame_s) + size / rates)


def refuse_dead_links(values: Floats, what: str, names: Sequence[str] | None) -> None:
    """Raise DeadLinkError for the first value that is not positive; `what` is its format string."""
    # The comparison also refuses NaN, because rates come from peers and from files.
    dead = np.flatnonzero(~(values > 0.0))
    if dead.size:
        index = int(dead[0])
        name = str(index) if names is None else names[index]
        raise DeadLinkError(name, what.format(values[index]))


def amounts(what: str, values: npt.ArrayLike) -> Floats:
    """Returns the values as an array. Raises ValueError if one is negative or not finite."""
    array = np.asarray(values, dtype=np.float64)
    if not np.all((array >= 0.0) & (array < np.inf)):
        raise ValueError(f"{what} must be finite and not negative, got {array.tolist()}")
    return array


def weighted_shares(airtime_s: npt.ArrayLike, weights: npt.ArrayLike) -> Floats:
    """Shares with the least weighted sum of times: phi_k = sqrt(w_k s_k) / sum_j sqrt(w_j s_j).

    airtime_s, weights: (n,). Returns (n,) shares that sum to 1; a link of weight 0 gets none and
    never finishes. Stationary point of sum(w_k s_k / phi_k) on the simplex.
    """
    roots = np.sqrt(amounts("airtimes", airtime_s)) * np.sqrt(amounts("weights", weights))
    total = roots.sum()
    return roots / total if total > 0.0 else np.zeros_like(roots)


def grant_order(airtime_s: npt.ArrayLike, weights: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Indices of links in the order of turns with the least weighted sum of times: by s_k / w_k.

    airtime_s, weights: (n,). Ties stay in the given order; weight 0 comes last. Smith 1956.
    """
    airtimes, importance = np.broadcast_arrays(
        amounts("airtimes", airtime_s), amounts("weights", weights)
    )
    ratios = np.full(airtimes.shape, np.inf)
    np.divide(airtimes, importance, out=ratios, where=importance > 0.0)
    return np.argsort(ratios, kind="stable")
