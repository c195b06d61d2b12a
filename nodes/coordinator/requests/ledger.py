"""Every request that has been taken in and is not over, by its client and by its streams."""

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

# What becomes of requests: the codes of RequestFailedNotice, and these.
OUTCOMES: Final = (
    *("done", "cancelled", "left"),
    *("bad_request", "not_found", "overloaded", "unavailable", "deadline", "internal"),
)


class Ledger:
    """outcomes: of requests that are over, how many of each of OUTCOMES."""

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
        """Requests whose texts are not tokenized yet or whose targets are not back, of clients
        that joined in a role."""
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
        """Whether it is not over: a client may use its number again."""
        return self.requests.get((request.client, request.request_id)) is request

    def forget(self, request: Request, outcome: str) -> None:
        """A request has ended; its streams are forgotten by who ends it."""
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
        """The target that has a stream; "" if none has."""
        request = self.streams.get(stream_id)
        return request.choices[stream_id].target if request is not None else ""

    def charge(self, streams: Sequence[StreamId], num_bytes: int, *, to_draft: bool) -> None:
        """Book the bytes of a message on the streams it is about, in equal shares."""
        for stream_id in streams:
            request = self.streams.get(stream_id)
            if request is not None:
                share = num_bytes // len(streams)
                request.choices[stream_id].wire.add(share, to_draft=to_draft)
