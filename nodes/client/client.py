"""The client of a running mesh: submits prompts and receives their tokens."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Self

from mesh.errors import LocalProtocolError
from mesh.messages import Welcome
from mesh.transport import ClientTransport
from nodes.client.cancellations import Cancellations
from nodes.client.generation import GenerateOptions, Prompt, submit_of
from nodes.client.journal import Event as Event
from nodes.client.journal import ForeignAnswerError, GapError, Journal
from nodes.client.retry import QUESTION_LIMIT_S, Backoff, TimeLimit
from nodes.client.upload import ANSWER_LIMIT_S, GRANT_LIMIT_S, Granted, Upload, is_worth_offering
from nodes.messages import (
    FinishedNotice,
    LinkFields,
    NodeCommandReply,
    NodeCommandRequest,
    NodesReply,
    NodesRequest,
    ReadNotice,
    RequestFailedNotice,
    StartedNotice,
    StatusReply,
    StatusRequest,
    SubmitRequest,
    TraceReply,
    TraceRequest,
    UploadGrant,
)
from nodes.telemetry.status import Status, decode_status
from nodes.worker.link import Link

logger = logging.getLogger(__name__)

_OVER = "the connection to the coordinator has ended"
_NOT_SENT = "the coordinator is unreachable or takes no more messages now: try again"
_LOST = "the coordinator was lost"
_TOO_LARGE = "the coordinator was lost, and the request has become too large to be sent again"
# Codes of failures that may pass soon: a new coordinator has no room or no target yet.
_PASSING = frozenset({"unavailable", "overloaded"})
# How long a request that waited for a coordinator then waits for its nodes, which have to join too.
_PATIENCE_S = 10.0
# For this long after an offer without an answer, requests are sent whole.
_NO_OFFERS_S = 60.0
# JSON numbers are exact up to this size in all languages.
_SEED_BITS = 53


class RequestFailedError(Exception):
    """The mesh ended a request. code: as in RequestFailedNotice. The text is the reason."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class LostRequestError(RequestFailedError):
    """The coordinator is lost or does not know the request; the next one may continue it."""

    def __init__(self, reason: str) -> None:
        super().__init__("unavailable", reason)


class Client:
    """One connection to a coordinator, for any number of requests; a task must run run()."""

    def __init__(
        self,
        transport: ClientTransport,
        *,
        endpoint: str,
        join_timeout_s: float | None = 10.0,
        rejoins: bool = False,
        role: str = "client",
        declared: LinkFields | None = None,
        on_waiting: Callable[[], object] = lambda: None,
    ) -> None:
        """rejoins: requests continue with the next coordinator when theirs is lost. role: client;
        gateway, which sends requests of many users; or admin, which observes the mesh or commands
        nodes. The key must have this role too. declared: what is known of the link; on a shared
        medium large requests take turns. on_waiting: called when a request has to wait for the next
        coordinator.
        """
        self._declared = declared
        self._rejoins = rejoins
        self._on_waiting = on_waiting
        # The time from which large requests are offered again, after an offer without an answer.
        self._offers_from = 0.0
        self._link = Link(
            transport,
            self,
            endpoint=endpoint,
            node=f"{role}-{os.getpid()}-{secrets.token_hex(4)}",
            role=role,
            join_timeout_s=join_timeout_s,
            rejoins=rejoins,
            on_lost=self._lost,
        )
        self._cancellations = Cancellations(lambda message: self._link.send(message))
        self._ids = itertools.count(1)
        self._queues: dict[int, asyncio.Queue[Any]] = {}
        self._joined = asyncio.Event()
        self._is_lost = False
        self._is_over = False

    async def run(self) -> None:
        """Run the connection. Raises NoCoordinatorError, LostCoordinatorError or RefusedError."""
        try:
            await self._link.run()
        finally:
            # Wake all requests that wait for an answer.
            self._is_over = True
            self._joined.set()
            for queue in self._queues.values():
                queue.put_nowait(None)

    @property
    def is_joined(self) -> bool:
        """Whether the coordinator is connected; without it, new requests wait for it."""
        return self._link.is_joined

    def on_joined(self, _welcome: Welcome) -> None:
        self._joined.set()
        self._is_lost = False
        self._offers_from = 0.0
        self._cancellations.send_again()

    def _lost(self) -> None:
        """End all requests of the lost membership; new ones wait for the next membership."""
        self._joined.clear()
        self._is_lost = True
        for queue in self._queues.values():
            queue.put_nowait(None)

    def on_message(self, message: Any) -> None:
        self._cancellations.send_again()
        queue = self._queues.get(getattr(message, "request_id", 0))
        if queue is not None:
            if isinstance(message, UploadGrant):
                message = Granted(message, asyncio.get_running_loop().time())
            queue.put_nowait(message)

    async def nodes(self) -> NodesReply:
        """Return the nodes in the mesh."""
        async with _PendingReply(self) as pending:
            self._link.send(NodesRequest(pending.request_id))
            reply = await self._next(pending)
            assert isinstance(reply, NodesReply)
            return reply

    async def command_node(self, command: str, node: str) -> int:
        """Drain, undrain or drop a node, and return the number of its streams. For role admin.

        Raises RequestFailedError if the command cannot be carried out.
        """
        async with _PendingReply(self) as pending:
            self._link.send(NodeCommandRequest(pending.request_id, command, node))
            reply = await self._next(pending)
            assert isinstance(reply, NodeCommandReply)
            if reply.error:
                raise RequestFailedError("bad_request", reply.error)
            return reply.num_streams

    async def trace(self, after: int) -> TraceReply:
        """Return the trace records after a number; -1 starts recording, which ends by itself some
        seconds after the last call.

        For role admin; without keys for every client.
        """
        async with _PendingReply(self) as pending:
            self._link.send(TraceRequest(pending.request_id, after))
            reply = await self._next(pending)
            assert isinstance(reply, TraceReply)
            return reply

    async def status(self) -> Status:
        """Return the status of the mesh. For roles admin and gateway; without keys for all clients.

        Raises RequestFailedError if this version cannot read it.
        """
        async with _PendingReply(self) as pending:
            self._link.send(StatusRequest(pending.request_id))
            reply = await self._next(pending)
            assert isinstance(reply, StatusReply)
        try:
            return decode_status(reply.status)
        except ValueError as error:
            says = "use the version of airdraft that the coordinator has"
            reason = f"the status cannot be read: {error}; {says}"
            raise RequestFailedError("internal", reason) from None

    async def read(self, prompt: Prompt, options: GenerateOptions, wants: str) -> ReadNotice:
        """Let a target read a prompt without generating. wants: one of messages.WANTS. Only the
        options for model, user, tools and time are used. Raises RequestFailedError.
        """
        submit = replace(submit_of(prompt, _dated(options), 0), wants=wants)
        limit = TimeLimit(options.timeout_s, asyncio.get_running_loop().time())
        async with _PendingReply(self, limit) as pending:
            has_ended = False
            try:
                await self._submit(replace(submit, request_id=pending.request_id), pending)
                reply = await self._next(pending)
                while isinstance(reply, Granted):
                    # A late grant for an upload that was already sent.
                    reply = await self._next(pending)
                assert isinstance(reply, ReadNotice)
                has_ended = True
                return reply
            finally:
                if not has_ended:
                    self._cancellations.cancel(pending.request_id)

    async def generate(self, prompt: Prompt, options: GenerateOptions) -> AsyncIterator[Event]:
        """Yield the events of one request until all its choices have finished.

        Closing the iterator early cancels the request. With `rejoins`, a lost coordinator is not an
        error: the request continues with the next one until its time limit. Raises
        RequestFailedError.
        """
        loop = asyncio.get_running_loop()
        # Without a seed the text could not be generated again.
        seed = secrets.randbits(_SEED_BITS) if options.seed is None else options.seed
        journal = Journal(submit_of(prompt, _dated(options), seed))
        limit, backoff = TimeLimit(options.timeout_s, loop.time()), Backoff()
        was_lost = False
        # A new coordinator may be connected before its nodes, so the request waits for them too.
        has_waited, patient_until = self._is_lost, math.inf
        if has_waited:
            self._on_waiting()
        while True:
            async with _PendingReply(self, limit) as pending:
                try:
                    patient_until = min(patient_until, loop.time() + _PATIENCE_S)
                    left_s = limit.deadline_s(loop.time())
                    await self._submit(journal.request(pending.request_id, left_s), pending)
                    while not journal.is_over:
                        message = await self._next(pending)
                        if isinstance(message, Granted):
                            # A late grant for an upload that was already sent.
                            continue
                        if isinstance(message, StartedNotice):
                            limit.told(message.limit_s, loop.time())
                            pending.watch(limit)
                        for event in _news(journal, message):
                            backoff.reset()
                            yield event
                    return
                except RequestFailedError as error:
                    if error.code == "deadline":
                        # A later coordinator would name only the rest of the time.
                        raise RequestFailedError(error.code, limit.exceeded) from None
                    was_lost |= isinstance(error, LostRequestError)
                    is_patient = was_lost or (has_waited and loop.time() < patient_until)
                    if not self._may_go_on(error, is_patient=is_patient):
                        raise
                    if self._is_lost:
                        self._on_waiting()
                except LocalProtocolError:
                    if not journal.is_resubmitted:
                        raise
                    raise RequestFailedError("unavailable", _TOO_LARGE) from None
                finally:
                    if not journal.is_over:
                        # If the coordinator is unreachable, the cancellation is sent later.
                        self._cancellations.cancel(pending.request_id)
            left_s = max(0.0, limit.give_up_at - loop.time())
            await asyncio.sleep(min(backoff.wait_s(), left_s))

    def _may_go_on(self, error: RequestFailedError, *, is_patient: bool) -> bool:
        """Whether a request that failed may succeed at the next try.

        is_patient: whether the request waits if there is no room or no target yet.
        """
        if self._is_over or not self._rejoins:
            return False
        return isinstance(error, LostRequestError) or (is_patient and error.code in _PASSING)

    async def _submit(self, submit: SubmitRequest, pending: _PendingReply) -> None:
        """Send a request. On a shared medium, large ones go in pieces when each is granted."""
        link = self._declared
        now = asyncio.get_running_loop().time()
        is_shared = link is not None and link.air and now >= self._offers_from
        frames = self._link.packed(submit) if is_shared else []
        if link is None or not is_worth_offering(link, frames):
            self._send_on(submit)
            return
        upload = Upload(submit.request_id, frames)
        self._send_on(upload.offer(submit.priority, link))
        limit_s = ANSWER_LIMIT_S
        while not upload.is_over:
            try:
                async with asyncio.timeout(limit_s):
                    message = await self._next(pending)
            except TimeoutError:
                if limit_s == ANSWER_LIMIT_S:
                    # No room for offers, or a slow path: later requests skip the offer for a while.
                    self._offers_from = asyncio.get_running_loop().time() + _NO_OFFERS_S
                    self._send_on(submit)
                    return
                for piece in upload.rest():
                    self._send_on(piece)
                return
            limit_s = GRANT_LIMIT_S
            if isinstance(message, Granted) and message.grant.num_bytes:
                await asyncio.sleep(message.send_at - asyncio.get_running_loop().time())
                self._send_on(upload.piece(message.grant.num_bytes))

    def _send_on(self, message: Any) -> None:
        """Send a part of a request. Raises LostRequestError if it cannot be sent."""
        if not self._link.send(message):
            raise LostRequestError(_NOT_SENT)

    async def _next(self, pending: _PendingReply) -> Any:
        queue = pending.queue
        if self._is_over and queue.empty():
            raise RequestFailedError("unavailable", _OVER)
        if not queue.empty():
            # get() on a queue with content does not yield to other tasks, nor to Ctrl-C.
            await asyncio.sleep(0)
        message = await queue.get()
        if message is None and self._is_over:
            raise RequestFailedError("unavailable", _OVER)
        if message is None:
            raise LostRequestError(_LOST)
        if isinstance(message, RequestFailedNotice):
            if message.code == "left":
                raise LostRequestError(message.reason)
            raise RequestFailedError(message.code, message.reason)
        return message

    def close(self) -> None:
        self._link.say_bye("done")


def _dated(options: GenerateOptions) -> GenerateOptions:
    """Fix today's date, so that a request which continues tomorrow stays the same request."""
    return replace(options, date=options.date or datetime.now(UTC).date().isoformat())


def _news(journal: Journal, message: Any) -> tuple[Event, ...]:
    """The new events in a message. Raises RequestFailedError."""
    if isinstance(message, FinishedNotice) and message.finish_reason == "cancelled":
        raise RequestFailedError("unavailable", "the request was cancelled")
    try:
        return journal.take(message)
    except GapError as error:
        raise LostRequestError(f"the answer is not complete: {error}") from None
    except ForeignAnswerError as error:
        raise RequestFailedError("internal", f"the request cannot continue: {error}") from None


class _PendingReply:
    """Waits for the coordinator, then provides a request id and the queue of its messages.

    After the time limit the queue receives a RequestFailedNotice.
    """

    def __init__(self, client: Client, limit: TimeLimit | None = None) -> None:
        """limit: the time limit of a request; None for a query that is answered at once."""
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._give_up_at = self._loop.time() + QUESTION_LIMIT_S
        self._timer: asyncio.TimerHandle | None = None
        self.request_id = 0
        self.queue: asyncio.Queue[Any] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        client = self._client
        if self._limit is not None:
            self._give_up_at = self._limit.give_up_at
        try:
            async with asyncio.timeout_at(self._give_up_at):
                while not (client.is_joined or client._is_over):
                    await client._joined.wait()
        except TimeoutError:
            notice = self._expired()
            raise RequestFailedError(notice.code, notice.reason) from None
        self.request_id = next(client._ids)
        client._queues[self.request_id] = self.queue
        self._set_timer()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        del self._client._queues[self.request_id]

    def watch(self, limit: TimeLimit) -> None:
        """Apply a limit that has become known."""
        self._give_up_at = limit.give_up_at
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(
            self._give_up_at, lambda: self.queue.put_nowait(self._expired())
        )

    def _expired(self) -> RequestFailedNotice:
        if self._limit is None:
            reason = f"the coordinator gave no answer within {QUESTION_LIMIT_S:g} s"
            return RequestFailedNotice(self.request_id, "unavailable", reason)
        return RequestFailedNotice(self.request_id, "deadline", self._limit.exceeded)
