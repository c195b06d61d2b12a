"""Until when requests may last. Pure."""

from __future__ import annotations

import math

from nodes.coordinator.requests.request import Request

# Ended at a time: a client takes so many messages at once.
_MAX_AT_ONCE = 256


class Deadlines:
    """Every request with its end; cheap as long as none is due."""

    def __init__(self) -> None:
        self._requests: dict[tuple[bytes, int], Request] = {}
        # None is due before.
        self._earliest = math.inf

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> None:
        self._requests[request.client, request.request_id] = request
        self._earliest = min(self._earliest, request.ends_at)

    def forget(self, request: Request) -> None:
        """It has ended."""
        self._requests.pop((request.client, request.request_id), None)

    def due(self, now: float) -> list[Request]:
        """Those whose time is over; some of them, where these are many."""
        if now < self._earliest:
            return []
        over = [request for request in self._requests.values() if request.ends_at <= now]
        if len(over) <= _MAX_AT_ONCE:
            left = (r.ends_at for r in self._requests.values() if r.ends_at > now)
            self._earliest = min(left, default=math.inf)
        return over[:_MAX_AT_ONCE]
