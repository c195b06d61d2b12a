"""Waits for what a coordinator sends about each request, with a limit for every wait, and cancels
requests."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

from nodes.client.retry import QUESTION_LIMIT_S, TimeLimit
from nodes.messages import CancelRequest, RequestFailedNotice

_OVER = "the connection to the coordinator has ended"
_LOST = "the coordinator was lost"


class RequestFailedError(Exception):
    """The mesh ended a request. code: as in RequestFailedNotice. The text is the reason."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class LostRequestError(RequestFailedError):
    """The coordinator is lost or does not know the request; the next one may continue it."""

    def __init__(self, reason: str) -> None:
        super().__init__("unavailable", reason)


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

    @contextlib.asynccontextmanager
    async def pending(self, limit: TimeLimit | None = None) -> AsyncIterator[Pending]:
        """Wait for the coordinator, then give the request an id and a queue of its messages.

        limit: the time limit of a request; None for a query that is answered at once.
        """
        found = Pending(self, limit)
        async with found.within_limit():
            while not self._may_begin.is_set():
                await self._may_begin.wait()
        found.request_id = next(self._ids)
        self.queues[found.request_id] = found.queue
        try:
            yield found
        finally:
            del self.queues[found.request_id]


class Pending:
    """One request that waits for messages."""

    def __init__(self, inbox: Inbox, limit: TimeLimit | None) -> None:
        self.request_id = 0
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self._inbox = inbox
        self._limit = limit
        self._question_ends_at = asyncio.get_running_loop().time() + QUESTION_LIMIT_S

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

    async def next(self) -> Any:
        """Wait for the next message. Raises RequestFailedError."""
        queue = self.queue
        if self._inbox.is_over and queue.empty():
            raise RequestFailedError("unavailable", _OVER)
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
        return message


class Cancellations:
    """Sends cancellations at once, or once the link takes messages again, so that the mesh does not
    generate for no reader. send: returns whether a message was sent."""

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
