"""A token bucket with which a sender keeps to its share of a medium without turns; pure."""

from __future__ import annotations

import math
from typing import Final

# Bytes that may be sent at once: one frame of usual networks.
DEPTH_BYTES: Final = 1400


class Pacer:
    """Computes when messages may leave so that they keep to a rate on average.

    A message leaves whole, once all of it but one frame has been earned at its rate. Earning starts
    when the message is ready and the messages before it are earned. So its last frame is never
    earlier than with a constant share of the medium.
    """

    def __init__(self) -> None:
        # The time at which all sent messages are earned.
        self._paid_at = -math.inf

    def send_at(self, num_bytes: int, rate_bps: float, ready: float) -> float:
        """Return when a message that is ready at `ready` may leave, and count it as sent."""
        self._paid_at = max(ready, self._paid_at) + 8 * num_bytes / rate_bps
        return max(ready, self._paid_at - 8 * DEPTH_BYTES / rate_bps)
