"""Counts what is kept for clients, against the limits on it. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Final

from airdraft.nodes.coordinator.requests.request import Request

# The most characters and token ids that are kept. 64 of the longest texts.
MAX_OF_CONNECTION: Final = 1 << 24
# 32 prompts of the most token ids.
MAX_OF_TENANT: Final = 1 << 22
# At most 270 MB of token ids.
MAX_OF_ALL: Final = 1 << 25


class Quota:
    """Sums the submitted text that is kept and the streams without a place.

    A text is charged from its submission until its request is over. A character (up to 4 bytes) and
    a token id (8 bytes) count the same.
    """

    def __init__(self) -> None:
        self._held = Counter[tuple[str, str | bytes]]()
        self._waiting = Counter[tuple[str, str]]()

    def what_is_full(self, request: Request) -> str:
        """Returns which limit a new request would exceed; "" if none."""
        for key, most, who in (
            (("connection", request.client), MAX_OF_CONNECTION, f"this {request.role} has"),
            (("tenant", request.tenant), MAX_OF_TENANT, "this key has"),
            (("all", ""), MAX_OF_ALL, "all clients have"),
        ):
            if self._held[key] + request.num_submitted > most:
                return f"{who} reached the limit of {most} characters and token ids"
        return ""

    def charge(self, request: Request, num: int) -> None:
        """Set a request's charge to num characters and token ids; 0 once it is over."""
        more, request.num_held = num - request.num_held, num
        for key in ("connection", request.client), ("tenant", request.tenant), ("all", ""):
            self._held[key] += more
            if not self._held[key]:
                del self._held[key]

    @property
    def num_held(self) -> int:
        """The characters and token ids that are kept for all clients."""
        return self._held["all", ""]

    def wait(self, request: Request, num: int) -> None:
        """Count so many more streams of a request as waiting, or fewer."""
        for key in ("role", request.role), ("tenant", request.tenant):
            self._waiting[key] += num
            if not self._waiting[key]:
                del self._waiting[key]

    def num_waiting(self, role: str) -> int:
        return self._waiting["role", role]

    def num_waiting_of(self, tenant: str) -> int:
        return self._waiting["tenant", tenant]
