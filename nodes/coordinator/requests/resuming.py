"""Keeps requests with token ids, resumed ones for example, until a target returns. Pure."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence

from nodes.coordinator.requests.request import Request

_DIGEST_BYTES = 16


def prompt_hash(prompt: Sequence[int]) -> str:
    """Return a digest of a prompt's token ids, which tells whether a resumed text still has them.

    They may change with time, for example when a chat template includes the date.
    """
    return hashlib.blake2b(array("I", prompt).tobytes(), digest_size=_DIGEST_BYTES).hexdigest()


class Returning:
    """Requests with token ids that wait for a target; those with text wait in Tokenizing."""

    def __init__(self) -> None:
        self._requests: dict[tuple[bytes, int], Request] = {}
        self._num_of_role: Counter[str] = Counter()

    def add(self, request: Request) -> None:
        self._requests[request.client, request.request_id] = request
        self._num_of_role[request.role] += request.submit.num_choices

    def drop(self, request: Request) -> None:
        """Remove a request that has a target or has ended."""
        if self._requests.pop((request.client, request.request_id), None) is not None:
            self._num_of_role[request.role] -= request.submit.num_choices

    def num_of(self, role: str) -> int:
        """Return the number of waiting choices of clients that joined in a role."""
        return self._num_of_role[role]

    def __iter__(self) -> Iterator[Request]:
        return iter(list(self._requests.values()))
