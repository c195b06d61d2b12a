"""Finds the requests whose deadline has passed. Pure."""

from __future__ import annotations

import math

from nodes.coordinator.requests.request import Request

# Requests ended at a time, because a client takes only so many messages at once.
_MAX_AT_ONCE = 256


class Deadlines:
    """Keeps every request with its deadline; due() is cheap while none has passed."""

    def __init__(self) -> None:
        self._requests: dict[tuple[bytes, int], Request] = {}
        # No request is due before this time.
        self._earliest = math.inf

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> None:
        self._requests[request.client, request.request_id] = request
        self._earliest = min(self._earliest, request.ends_at)

    def forget(self, request: Request) -> None:
        """Remove a request that has ended."""
        self._requests.pop((request.client, request.request_id), None)

    def due(self, now: float) -> list[Request]:
        """Return requests whose deadline has passed, at most _MAX_AT_ONCE of them."""
        if now < self._earliest:
            return []
        over = [request for request in self._requests.values() if request.ends_at <= now]
        if len(over) <= _MAX_AT_ONCE:
            left = (r.ends_at for r in self._requests.values() if r.ends_at > now)
            self._earliest = min(left, default=math.inf)
        return over[:_MAX_AT_ONCE]
