"""Cancellations that could not be sent yet, so that the mesh does not generate for no reader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nodes.messages import CancelRequest


class Cancellations:
    """Sends cancellations at once, or once the link takes messages again. send: returns whether a
    message was sent."""

    def __init__(self, send: Callable[[Any], bool]) -> None:
        self._send = send
        self._unsent: dict[int, None] = {}

    def cancel(self, request_id: int) -> None:
        self._unsent[request_id] = None
        self.send_again()

    def send_again(self) -> None:
        """Retry. To be called when the link is back, and at each message: while the mesh works on a
        request, messages arrive."""
        while self._unsent:
            request_id = next(iter(self._unsent))
            if not self._send(CancelRequest(request_id)):
                return
            del self._unsent[request_id]
