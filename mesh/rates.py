"""The rate of a link, as seen by what large messages take: no traffic of its own but a Ping.

A Ping that directly follows a message waits until that has gone over the link, so its Pong comes
that much later than others do.
"""

import math
from typing import Final

# Smaller messages are lost in what a round trip varies by.
MIN_PROBE_BYTES: Final = 1024
# Less than this beyond a usual round trip tells no more than that the link is fast.
_LEAST_S: Final = 1e-3
_WEIGHT: Final = 1 / 4  # of a new sample


class RateEstimate:
    """bit/s of one direction, and what is on its way to tell more. bps: None before a sample."""

    def __init__(self) -> None:
        self._log_bps: float | None = None

    @property
    def bps(self) -> float | None:
        return None if self._log_bps is None else math.exp(self._log_bps)

    def observe(self, num_bytes: int, round_trip_s: float, usual_round_trip_s: float) -> None:
        """A Ping right after so many bytes came back after round_trip_s."""
        taken_s = max(_LEAST_S, round_trip_s - usual_round_trip_s)
        sample = math.log(8 * num_bytes / taken_s)
        before = sample if self._log_bps is None else self._log_bps
        self._log_bps = before + _WEIGHT * (sample - before)
