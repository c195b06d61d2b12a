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
        self._of_connection: Counter[bytes] = Counter()
        self._of_tenant: Counter[str] = Counter()
        self._of_all = 0

    def what_is_full(self, request: Request, num: int) -> str:
        """Return which limit num more would exceed; "" if none."""
        if self._of_connection[request.client] + num > MAX_OF_CONNECTION:
            return (
                f"this {request.role} has reached its limit of {MAX_OF_CONNECTION} characters and "
                f"token ids"
            )
        if self._of_tenant[request.tenant] + num > MAX_OF_TENANT:
            return f"this owner has reached its limit of {MAX_OF_TENANT} characters and token ids"
        if self._of_all + num > MAX_OF_ALL:
            return f"all clients have reached the limit of {MAX_OF_ALL} characters and token ids"
        return ""

    def charge(self, request: Request, num: int) -> None:
        """Set a request's charge to num characters and token ids; 0 once it is over."""
        more, request.num_held = num - request.num_held, num
        self._of_connection[request.client] += more
        self._of_tenant[request.tenant] += more
        self._of_all += more
        if not self._of_connection[request.client]:
            del self._of_connection[request.client]
        if not self._of_tenant[request.tenant]:
            del self._of_tenant[request.tenant]


def num_held_by(request: Request) -> int:
    """Return the characters and token ids of a request as it was submitted."""
    submit = request.submit
    num_chars = len(submit.prompt) + sum(len(message.content) for message in submit.messages)
    return num_chars + len(submit.tools) + len(submit.prompt_token_ids)
