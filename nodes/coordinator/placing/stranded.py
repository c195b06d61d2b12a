"""Requests that no target could serve at present, and since when."""

from __future__ import annotations

from nodes.coordinator.requests.request import Request

# A request without any target that could serve it is kept so long: a target may start again.
STRANDED_LIMIT_S = 30.0
# Given up at a time: a client takes so many messages at once.
_MAX_AT_ONCE = 256


class Stranded:
    """In the order in which they lost their last target."""

    def __init__(self) -> None:
        self._requests: dict[tuple[bytes, int], Request] = {}

    def note(self, request: Request, *, is_able: bool, now: float) -> None:
        """Whether there is a target that could serve it."""
        if is_able:
            self.forget(request)
        elif request.stranded_at is None:
            request.stranded_at = now
            self._requests[request.client, request.request_id] = request

    def forget(self, request: Request) -> None:
        """It can be served, or has ended."""
        if request.stranded_at is not None:
            request.stranded_at = None
            del self._requests[request.client, request.request_id]

    def due(self, now: float) -> list[Request]:
        """Those that have waited too long; some of them, where these are many."""
        out: list[Request] = []
        for request in self._requests.values():
            assert request.stranded_at is not None
            if now - request.stranded_at < STRANDED_LIMIT_S or len(out) == _MAX_AT_ONCE:
                break
            out.append(request)
        return out
