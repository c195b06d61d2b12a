"""Cancellations that have not left yet: a mesh must not work on for nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nodes.messages import CancelRequest


class Cancellations:
    """Sent at once, or as soon as the link takes messages again. send: whether one has left."""

    def __init__(self, send: Callable[[Any], bool]) -> None:
        self._send = send
        self._unsent: dict[int, None] = {}

    def cancel(self, request_id: int) -> None:
        self._unsent[request_id] = None
        self.send_again()

    def send_again(self) -> None:
        """To be called when the link is there again; and on whatever comes: while a mesh works on a
        request, something comes."""
        while self._unsent:
            request_id = next(iter(self._unsent))
            if not self._send(CancelRequest(request_id)):
                return
            del self._unsent[request_id]
