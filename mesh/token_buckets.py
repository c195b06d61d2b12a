"""A token bucket for each of many senders: a burst at once, and so much a second. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from airdraft.mesh.latest import Latest

_MAX_SENDERS: Final = 4_096


class TokenBuckets:
    """Keeps the buckets of the last _MAX_SENDERS senders; each begins full."""

    def __init__(self, burst: float, per_s: float) -> None:
        self._burst, self._per_s = burst, per_s
        # What was left when its sender last wanted some, and when that was.
        self._left = Latest[Hashable, tuple[float, float]](_MAX_SENDERS)

    def take(self, who: Hashable, amount: float, now: float) -> bool:
        """Take an amount from a sender's bucket; False, and nothing is taken, if that is too
        little."""
        left, seen_at = self._left.get(who, (self._burst, now))
        left = min(self._burst, left + self._per_s * max(0.0, now - seen_at))
        is_allowed = left >= amount
        self._left[who] = (left - amount if is_allowed else left, now)
        return is_allowed
