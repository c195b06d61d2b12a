"""Keeps the requests that no present target can serve, with the time since when."""

from __future__ import annotations

from nodes.coordinator.requests.request import Request

# A request that no target can serve is kept for this long, because a target may restart.
STRANDED_LIMIT_S = 30.0
# Requests ended at a time, because a client takes only so many messages at once.
_MAX_AT_ONCE = 256


class Stranded:
    """Requests in the order in which they lost their last target."""

    def __init__(self) -> None:
        self._requests: dict[tuple[bytes, int], Request] = {}

    def note(self, request: Request, *, is_able: bool, now: float) -> None:
        """Update a request. is_able: there is a target that could serve it."""
        if is_able:
            self.forget(request)
        elif request.stranded_at is None:
            request.stranded_at = now
            self._requests[request.client, request.request_id] = request

    def forget(self, request: Request) -> None:
        """Remove a request that can be served or has ended."""
        if request.stranded_at is not None:
            request.stranded_at = None
            del self._requests[request.client, request.request_id]

    def due(self, now: float) -> list[Request]:
        """Return requests that have waited too long, at most _MAX_AT_ONCE of them."""
        out: list[Request] = []
        for request in self._requests.values():
            assert request.stranded_at is not None
            if now - request.stranded_at < STRANDED_LIMIT_S or len(out) == _MAX_AT_ONCE:
                break
            out.append(request)
        return out
