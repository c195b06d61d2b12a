"""Limits how much submitted text is kept, by connection, by tenant and in total. Pure.

A character (up to 4 bytes) and a token id (8 bytes) count the same.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from nodes.coordinator.requests.request import Request

# 64 of the longest texts.
MAX_OF_CONNECTION: Final = 1 << 24
# 32 prompts of the most token ids.
MAX_OF_TENANT: Final = 1 << 22
# At most 270 MB of token ids.
MAX_OF_ALL: Final = 1 << 25


class Holdings:
    """Sums the charges of requests, each from its submission until it is over."""

    def __init__(self) -> None:
        self._sums = Counter[tuple[str, str | bytes]]()

    def what_is_full(self, request: Request, num: int) -> str:
        """Return which limit num more would exceed; "" if none."""
        for key, most, who in (
            (("connection", request.client), MAX_OF_CONNECTION, f"this {request.role} has"),
            (("tenant", request.tenant), MAX_OF_TENANT, "this owner has"),
            (("all", ""), MAX_OF_ALL, "all clients have"),
        ):
            if self._sums[key] + num > most:
                return f"{who} reached the limit of {most} characters and token ids"
        return ""

    def charge(self, request: Request, num: int) -> None:
        """Set a request's charge to num characters and token ids; 0 once it is over."""
        more, request.num_held = num - request.num_held, num
        for key in ("connection", request.client), ("tenant", request.tenant), ("all", ""):
            self._sums[key] += more
            if not self._sums[key]:
                del self._sums[key]


def num_held_by(request: Request) -> int:
    """Return the characters and token ids of a request as it was submitted."""
    submit = request.submit
    num_chars = len(submit.prompt) + sum(len(message.content) for message in submit.messages)
    return num_chars + len(submit.tools) + len(submit.prompt_token_ids)
