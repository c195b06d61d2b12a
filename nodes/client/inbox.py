"""Waits for what a coordinator sends about each request, with a limit for every wait, and waits
between tries."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator
from typing import Any, Final, Self

from airdraft.nodes.client.upload import Granted
from airdraft.nodes.messages import RequestFailedNotice

_OVER = "the connection to the coordinator has ended"
_LOST = "the coordinator was lost"
# Upper bounds of the first and of any wait between tries. The first is short, because a coordinator
# that is back can serve at once.
FIRST_WAIT_S: Final = 0.1
MOST_WAIT_S: Final = 5.0
# The limit of a request until its coordinator has sent its own.
DEFAULT_LIMIT_S: Final = 3600.0
# The coordinator ends a request at its limit. Without its notice the client does, this much later.
GRACE_S: Final = 0.75
# The limit of queries that are answered at once.
QUESTION_LIMIT_S: Final = 60.0
# Not the module's generator, whose seed and numbers belong to the program around a client.
_jitter = random.SystemRandom()


class RequestFailedError(Exception):
    """The mesh ended a request. code: as in RequestFailedNotice. The text is the reason."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class LostRequestError(RequestFailedError):
    """The coordinator is lost or does not know the request; the next one may continue it."""

    def __init__(self, reason: str) -> None:
        super().__init__("unavailable", reason)


def wait_before_s(num_tries: int) -> float:
    """The wait after so many tries without progress. Its bound doubles up to a maximum; within it
    the wait is drawn (full jitter), so that clients do not return in step."""
    # Beyond 2^16 the maximum applies anyway.
    return _jitter.uniform(0.0, min(MOST_WAIT_S, FIRST_WAIT_S * 2 ** min(num_tries, 16)))


class TimeLimit:
    """The time limit of one request, from its options and its coordinator. Times are monotonic.

    is_known: whether a coordinator has named its limit, which it does when a stream has a place.
    """

    def __init__(self, asked_s: float | None, now: float) -> None:
        self._asked_s = asked_s
        self._begun_at = now
        self._ends_at = now + (DEFAULT_LIMIT_S if asked_s is None else asked_s)
        self.is_known = False

    @property
    def give_up_at(self) -> float:
        """The time at which the client gives up, even without a notice."""
        return self._ends_at + GRACE_S

    @property
    def exceeded(self) -> str:
        """The reason of failure for a request that was not done in time."""
        total_s = round(self._ends_at - self._begun_at, 2)
        return f"the request was not done within its {total_s:g} s"

    def apply(self, limit_s: float, now: float) -> None:
        """Apply the limit of the first coordinator; later coordinators keep it."""
        if self.is_known or limit_s <= 0:
            return
        self.is_known = True
        ends_at = now + limit_s
        self._ends_at = ends_at if self._asked_s is None else min(self._ends_at, ends_at)

    def is_over(self, now: float) -> bool:
        """Whether the request's own time limit has passed."""
        return self._asked_s is not None and now >= self._ends_at

    def deadline_s(self, now: float) -> float:
        """The seconds left, as in SubmitRequest; 0 if no limit is known."""
        if self._asked_s is None and not self.is_known:
            return 0.0
        # A request that is late is still sent, and the coordinator fails it.
        return max(1e-3, self._ends_at - now)


class Inbox:
    """The requests of one connection that wait for messages. is_over: the connection has ended."""

    def __init__(self) -> None:
        self.queues: dict[int, asyncio.Queue[Any]] = {}
        self.is_over = False
        self._ids = itertools.count(1)
        self._may_begin = asyncio.Event()

    def joined(self) -> None:
        """Let requests begin that have waited for a coordinator."""
        self._may_begin.set()

    def lost(self) -> None:
        """End all requests of the lost membership; new ones wait for the next membership."""
        self._may_begin.clear()
        self._wake()

    def end(self) -> None:
        """End all requests, and those that wait for a coordinator."""
        self.is_over = True
        self._may_begin.set()
        self._wake()

    def _wake(self) -> None:
        for queue in self.queues.values():
            queue.put_nowait(None)

    async def wait_to_begin(self) -> None:
        """Wait for the coordinator. Raises RequestFailedError if the connection has ended."""
        while not self._may_begin.is_set():
            await self._may_begin.wait()
        if self.is_over:
            raise RequestFailedError("unavailable", _OVER)

    def add(self, queue: asyncio.Queue[Any]) -> int:
        """Returns the id of a new request, whose messages are put into the queue."""
        request_id = next(self._ids)
        self.queues[request_id] = queue
        return request_id


class PendingReply:
    """One request that waits for messages; `async with` waits for the coordinator first.

    It is no asynchronous generator, because a loop that ends closes those in any order: this one
    perhaps before the generator that has entered it.
    """

    def __init__(self, inbox: Inbox, limit: TimeLimit | None = None) -> None:
        """limit: the time limit of a request; None for a query that is answered at once."""
        self.request_id = 0
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self._inbox = inbox
        self._limit = limit
        self._question_ends_at = asyncio.get_running_loop().time() + QUESTION_LIMIT_S

    async def __aenter__(self) -> Self:
        async with self.within_limit():
            await self._inbox.wait_to_begin()
        self.request_id = self._inbox.add(self.queue)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        del self._inbox.queues[self.request_id]

    @contextlib.asynccontextmanager
    async def within_limit(self) -> AsyncIterator[None]:
        """Raises RequestFailedError if the block takes longer than the request may."""
        limit = self._limit
        try:
            async with asyncio.timeout_at(limit.give_up_at if limit else self._question_ends_at):
                yield
        except TimeoutError:
            if limit is not None:
                raise RequestFailedError("deadline", limit.exceeded) from None
            reason = f"the coordinator gave no answer within {QUESTION_LIMIT_S:g} s"
            raise RequestFailedError("unavailable", reason) from None

    async def next(self, *, takes_grants: bool = False) -> Any:
        """Wait for the next message. Raises RequestFailedError."""
        queue = self.queue
        if not queue.empty():
            # get() on a queue with content does not yield to other tasks, nor to Ctrl-C.
            await asyncio.sleep(0)
        async with self.within_limit():
            message = await queue.get()
        if message is None and self._inbox.is_over:
            raise RequestFailedError("unavailable", _OVER)
        if message is None:
            raise LostRequestError(_LOST)
        if isinstance(message, RequestFailedNotice):
            if message.code == "left":
                raise LostRequestError(message.reason)
            raise RequestFailedError(message.code, message.reason)
        if isinstance(message, Granted) and not takes_grants:
            # It is late: the upload was sent without it.
            return await self.next()
        return message
