"""Keeps every accepted request that is not over, by client and by stream."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any, Final

from nodes.coordinator.placing.waiting import Waits
from nodes.coordinator.requests.request import Choice, Request
from nodes.coordinator.requests.tokenizing import Tokenizing
from nodes.coordinator.sends import streams_of
from nodes.worker.stream import StreamId

# Outcomes of requests: three of their own, and the codes of RequestFailedNotice.
OUTCOMES: Final = (
    *("done", "cancelled", "left"),
    *("bad_request", "not_found", "overloaded", "unavailable", "deadline", "internal"),
)
# A request that no target can serve is kept for this long, because a target may restart.
STRANDED_LIMIT_S: Final = 30.0
# Requests ended at a time, because a client takes only so many messages at once.
_MAX_AT_ONCE: Final = 256
# The most characters and token ids that are kept. 64 of the longest texts.
MAX_OF_CONNECTION: Final = 1 << 24
# 32 prompts of the most token ids.
MAX_OF_TENANT: Final = 1 << 22
# At most 270 MB of token ids.
MAX_OF_ALL: Final = 1 << 25


class Holdings:
    """Limits how much submitted text is kept, by connection, by tenant and in total.

    It sums the charges of requests, each from its submission until it is over. A character (up to 4
    bytes) and a token id (8 bytes) count the same.
    """

    def __init__(self) -> None:
        self._sums = Counter[tuple[str, str | bytes]]()

    def what_is_full(self, request: Request) -> str:
        """Return which limit a new request would exceed; "" if none."""
        for key, most, who in (
            (("connection", request.client), MAX_OF_CONNECTION, f"this {request.role} has"),
            (("tenant", request.tenant), MAX_OF_TENANT, "this key has"),
            (("all", ""), MAX_OF_ALL, "all clients have"),
        ):
            if self._sums[key] + request.num_submitted > most:
                return f"{who} reached the limit of {most} characters and token ids"
        return ""

    def charge(self, request: Request, num: int) -> None:
        """Set a request's charge to num characters and token ids; 0 once it is over."""
        more, request.num_held = num - request.num_held, num
        for key in ("connection", request.client), ("tenant", request.tenant), ("all", ""):
            self._sums[key] += more
            if not self._sums[key]:
                del self._sums[key]


class Ledger:
    """The requests that are not over, with their streams and the limits on what is kept of them.

    outcomes: the number of finished requests with each of OUTCOMES.
    """

    def __init__(self) -> None:
        # By client and then by number.
        self._requests: dict[bytes, dict[int, Request]] = {}
        self.streams: dict[StreamId, Choice] = {}
        self.waits = Waits()
        self.tokenizing = Tokenizing(self.waits)
        self.holdings = Holdings()
        self.outcomes = Counter[str]()
        # Requests that no present target can serve, with the times when they lost the last one.
        self._stranded: dict[Request, float] = {}

    def request(self, client: bytes, number: int) -> Request | None:
        return self._requests.get(client, {}).get(number)

    def of_client(self, client: bytes) -> list[Request]:
        return list(self._requests.get(client, {}).values())

    def take_in(self, request: Request) -> None:
        self._requests.setdefault(request.client, {})[request.request_id] = request
        self.holdings.charge(request, request.num_submitted)

    def overdue(self, now: float) -> list[Request]:
        """Return requests whose deadline has passed, at most _MAX_AT_ONCE of them."""
        over = (
            request
            for of_client in self._requests.values()
            for request in of_client.values()
            if request.ends_at <= now
        )
        return list(itertools.islice(over, _MAX_AT_ONCE))

    def note_targets(self, request: Request, *, is_able: bool, now: float) -> None:
        """Note whether there is a target that could serve a request."""
        if is_able:
            self._stranded.pop(request, None)
        else:
            self._stranded.setdefault(request, now)

    def stranded(self, now: float) -> list[Request]:
        """Return requests that no target could serve for too long, at most _MAX_AT_ONCE of them."""
        long_ago = now - STRANDED_LIMIT_S
        over = itertools.takewhile(lambda each: each[1] <= long_ago, self._stranded.items())
        return [request for request, _ in itertools.islice(over, _MAX_AT_ONCE)]

    def holds(self, request: Request) -> bool:
        """Whether this request is not over; a later request may have the same number."""
        return self.request(request.client, request.request_id) is request

    def forget(self, request: Request, outcome: str) -> None:
        """Remove a request that has ended; its streams are removed by the caller."""
        self.tokenizing.drop(request)
        self._stranded.pop(request, None)
        self.holdings.charge(request, 0)
        of_client = self._requests.get(request.client, {})
        if of_client.pop(request.request_id, None) is not None:
            self.outcomes[outcome] += 1
            if not of_client:
                del self._requests[request.client]

    def target_of(self, stream_id: StreamId) -> str:
        """Return the target that serves a stream; "" if none does."""
        choice = self.streams.get(stream_id)
        return choice.target if choice is not None else ""

    def count_bytes(self, message: Any, num_bytes: int, *, to_draft: bool) -> None:
        """Add the bytes of a message to or from a node to the figures of the streams that it is
        about, in equal shares."""
        streams = streams_of(message)
        for stream_id in streams:
            choice = self.streams.get(stream_id)
            if choice is not None:
                share = num_bytes // len(streams)
                choice.draft_bytes += share * to_draft
                choice.target_bytes += share * (not to_draft)
