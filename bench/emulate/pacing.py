"""Keeping to a share of a medium that offers no turns: a token bucket at the sender. Pure."""

from __future__ import annotations

import math
from typing import Final

# What may be sent at once: a frame, as of most networks.
DEPTH_BYTES: Final = 1400


class Pacer:
    """When messages may leave so that on average they keep to a rate.

    A message leaves whole, when all of it but a frame has been earned at its rate since it was
    ready and those before it had been: its last frame is never earlier than a constant share of
    the medium would bring it.
    """

    def __init__(self) -> None:
        # When all that was sent has been earned.
        self._paid_at = -math.inf

    def send_at(self, num_bytes: int, rate_bps: float, ready: float) -> float:
        """When a message that is ready may leave; the next one is counted from there."""
        self._paid_at = max(ready, self._paid_at) + 8 * num_bytes / rate_bps
        return max(ready, self._paid_at - 8 * DEPTH_BYTES / rate_bps)
