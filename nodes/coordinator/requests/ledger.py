"""Keeps every accepted request that is not over, by client and by stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from nodes.coordinator.requests.deadlines import Deadlines
from nodes.coordinator.requests.holdings import Holdings, num_held_by
from nodes.coordinator.requests.request import Request
from nodes.coordinator.requests.resuming import Returning
from nodes.coordinator.requests.tokenizing import Tokenizing
from nodes.worker.stream import StreamId

# Outcomes of requests: three of their own, and the codes of RequestFailedNotice.
OUTCOMES: Final = (
    *("done", "cancelled", "left"),
    *("bad_request", "not_found", "overloaded", "unavailable", "deadline", "internal"),
)


class Ledger:
    """outcomes: the number of finished requests with each of OUTCOMES."""

    def __init__(self) -> None:
        self.requests: dict[tuple[bytes, int], Request] = {}
        self.streams: dict[StreamId, Request] = {}
        self.tokenizing = Tokenizing()
        self.returning = Returning()
        self.deadlines = Deadlines()
        self.holdings = Holdings()
        self.outcomes = Counter[str]()
        self._ids_of_client: dict[bytes, set[int]] = {}

    def num_unread(self, role: str) -> int:
        """Return the requests that wait for tokenization or for a target to return, of clients that
        joined in a role."""
        return self.tokenizing.num_of(role) + self.returning.num_of(role)

    def num_requests(self, client: bytes) -> int:
        return len(self._ids_of_client.get(client, ()))

    def of_client(self, client: bytes) -> list[Request]:
        return [self.requests[client, number] for number in self._ids_of_client.get(client, ())]

    def take_in(self, request: Request) -> None:
        self.requests[request.client, request.request_id] = request
        self._ids_of_client.setdefault(request.client, set()).add(request.request_id)
        self.deadlines.add(request)
        self.holdings.charge(request, num_held_by(request))

    def holds(self, request: Request) -> bool:
        """Whether this request is not over; a later request may have the same number."""
        return self.requests.get((request.client, request.request_id)) is request

    def forget(self, request: Request, outcome: str) -> None:
        """Remove a request that has ended; its streams are removed by the caller."""
        self.tokenizing.drop(request)
        self.returning.drop(request)
        self.deadlines.forget(request)
        self.holdings.forget(request)
        if self.requests.pop((request.client, request.request_id), None) is not None:
            self.outcomes[outcome] += 1
            ids = self._ids_of_client[request.client]
            ids.remove(request.request_id)
            if not ids:
                del self._ids_of_client[request.client]

    def target_of(self, stream_id: StreamId) -> str:
        """Return the target that serves a stream; "" if none does."""
        request = self.streams.get(stream_id)
        return request.choices[stream_id].target if request is not None else ""

    def charge(self, streams: Sequence[StreamId], num_bytes: int, *, to_draft: bool) -> None:
        """Charge the bytes of a message to its streams in equal shares."""
        for stream_id in streams:
            request = self.streams.get(stream_id)
            if request is not None:
                share = num_bytes // len(streams)
                request.choices[stream_id].wire.add(share, to_draft=to_draft)
