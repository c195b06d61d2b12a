"""Requests that began with another coordinator: what their clients have of them. Pure."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence

from nodes.coordinator.requests.request import Request

_DIGEST_BYTES = 16


def prompt_hash(prompt: Sequence[int]) -> str:
    """Of a prompt's ids: a text may become others with time, as a template may tell the date."""
    return hashlib.blake2b(array("I", prompt).tobytes(), digest_size=_DIGEST_BYTES).hexdigest()


class Returning:
    """Requests with token ids for which no target is back yet; texts wait to be tokenized."""

    def __init__(self) -> None:
        self._requests: dict[tuple[bytes, int], Request] = {}
        self._num_of_role: Counter[str] = Counter()

    def add(self, request: Request) -> None:
        self._requests[request.client, request.request_id] = request
        self._num_of_role[request.role] += request.submit.num_choices

    def drop(self, request: Request) -> None:
        """It has a target, or has ended."""
        if self._requests.pop((request.client, request.request_id), None) is not None:
            self._num_of_role[request.role] -= request.submit.num_choices

    def num_of(self, role: str) -> int:
        """Choices of clients that joined in a role."""
        return self._num_of_role[role]

    def __iter__(self) -> Iterator[Request]:
        return iter(list(self._requests.values()))
