"""Estimates the rate of a link from the time that large messages take. Pure.

The only extra traffic is a Ping. A Ping that directly follows a message waits until the message has
crossed the link, so its Pong is late by that time.
"""

import math
from typing import Final

# The time of smaller messages disappears in the variation of the round trip.
MIN_PROBE_BYTES: Final = 1024
# A shorter delay beyond the usual round trip only shows that the link is fast.
_LEAST_S: Final = 1e-3
_WEIGHT: Final = 1 / 4  # weight of a new sample


class RateEstimate:
    """The rate of one direction in bit/s. bps: None before the first sample."""

    def __init__(self) -> None:
        self._log_bps: float | None = None

    @property
    def bps(self) -> float | None:
        return None if self._log_bps is None else math.exp(self._log_bps)

    def observe(self, num_bytes: int, round_trip_s: float, usual_round_trip_s: float) -> None:
        """Take a sample: the Pong of a Ping sent right after num_bytes came after round_trip_s."""
        taken_s = max(_LEAST_S, round_trip_s - usual_round_trip_s)
        sample = math.log(8 * num_bytes / taken_s)
        before = sample if self._log_bps is None else self._log_bps
        self._log_bps = before + _WEIGHT * (sample - before)
