"""The client of a running mesh: submits prompts and receives their tokens."""

import asyncio
import contextlib
import math
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from airdraft.mesh.errors import LocalProtocolError
from airdraft.mesh.messages import Welcome
from airdraft.mesh.transport import ClientTransport
from airdraft.nodes.client.generation import SEED_BITS, GenerateOptions, Prompt, submit_of
from airdraft.nodes.client.inbox import (
    Inbox,
    LostRequestError,
    PendingReply,
    TimeLimit,
    wait_before_s,
)
from airdraft.nodes.client.inbox import RequestFailedError as RequestFailedError
from airdraft.nodes.client.journal import Event as Event
from airdraft.nodes.client.journal import ForeignAnswerError, GapError, Journal
from airdraft.nodes.client.upload import (
    ANSWER_LIMIT_S,
    GRANT_LIMIT_S,
    Granted,
    Upload,
    is_worth_offering,
)
from airdraft.nodes.messages import (
    CancelRequest,
    FinishedNotice,
    LinkFields,
    NodeCommandReply,
    NodeCommandRequest,
    NodesReply,
    NodesRequest,
    OutputNotice,
    ReadNotice,
    StartedNotice,
    StatusReply,
    StatusRequest,
    SubmitRequest,
    TraceReply,
    TraceRequest,
    UploadGrant,
    notices_of,
)
from airdraft.nodes.telemetry.status import Status, decode_status
from airdraft.nodes.worker.connection import Connection

R = TypeVar("R")
# Closing the generator cancels the request.
Events = AsyncGenerator[Event, None]

_NOT_SENT = "the coordinator is unreachable or takes no more messages now: try again"
_NOT_YET = "no target of this model has joined the next coordinator yet: try again"
_TOO_LARGE = "the coordinator was lost, and the request has become too large to be sent again"
# Codes of failures that may pass soon: a new coordinator has no room, or not all of its targets.
_PASSING = frozenset({"unavailable", "overloaded", "not_found"})
# How long after a coordinator was lost and the next one joined requests wait for its nodes, which
# have to join too.
_PATIENCE_S = 10.0
# For this long after an offer without an answer, requests are sent whole.
_NO_OFFERS_S = 60.0


class MeshClient:
    """One connection to a coordinator, for any number of requests, while run() runs."""

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
        self._link = Connection(
            transport,
            self,
            endpoint=endpoint,
            node=f"{role}-{os.getpid()}-{secrets.token_hex(4)}",
            role=role,
            join_timeout_s=join_timeout_s,
            rejoins=rejoins,
            on_lost=self._lost,
        )
        self._inbox = Inbox()
        # Cancelled requests whose coordinator could not be told yet.
        self._cancelled: dict[int, None] = {}
        self._is_lost = False
        self._patient_until = -math.inf

    async def run(self) -> None:
        """Run the connection. Raises NoCoordinatorError, LostCoordinatorError or RefusedError."""
        try:
            await self._link.run()
        finally:
            self._inbox.end()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Run the connection in a task beside the block, and close it at the end."""
        task = asyncio.create_task(self.run())
        try:
            yield task
        finally:
            self.close()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @property
    def is_joined(self) -> bool:
        """Whether the coordinator is connected; without it, new requests wait for it."""
        return self._link.is_joined

    @property
    def _awaits_nodes(self) -> bool:
        """Whether nodes may still be on their way to a new coordinator, which this client found
        before them."""
        return asyncio.get_running_loop().time() < self._patient_until

    # -- what the link reports ---------------------------------------------------------------------

    def on_joined(self, _welcome: Welcome) -> None:
        self._inbox.joined()
        if self._is_lost:
            self._patient_until = asyncio.get_running_loop().time() + _PATIENCE_S
        self._is_lost = False
        self._offers_from = 0.0
        self._send_cancellations()

    def _lost(self) -> None:
        self._inbox.lost()
        self._is_lost = True

    def on_message(self, message: Any) -> None:
        self._send_cancellations()
        if isinstance(message, OutputNotice):
            for notice in notices_of(message):
                self._deliver(notice)
        else:
            self._deliver(message)

    def _deliver(self, message: Any) -> None:
        queue = self._inbox.queues.get(getattr(message, "request_id", 0))
        if queue is not None:
            if isinstance(message, UploadGrant):
                message = Granted(message, asyncio.get_running_loop().time())
            queue.put_nowait(message)

    # -- questions ---------------------------------------------------------------------------------

    async def nodes(self) -> NodesReply:
        """Returns the nodes in the mesh."""
        return await self._asked(NodesReply, NodesRequest)

    async def command_node(self, command: str, node: str) -> int:
        """Drain, undrain or drop a node, and return the number of its streams. For role admin.

        Raises RequestFailedError if the command cannot be carried out.
        """
        reply = await self._asked(NodeCommandReply, NodeCommandRequest, command, node)
        if reply.error:
            raise RequestFailedError("bad_request", reply.error)
        return reply.num_streams

    async def trace(self, after: int) -> TraceReply:
        """Returns the trace records after a number; -1 starts recording, which ends by itself some
        seconds after the last call.

        For role admin; without keys for every client.
        """
        return await self._asked(TraceReply, TraceRequest, after)

    async def status(self) -> Status:
        """Returns the status of the mesh. For roles admin and gateway; without keys for all
        clients.

        Raises RequestFailedError if this version cannot read it.
        """
        reply = await self._asked(StatusReply, StatusRequest)
        try:
            return decode_status(reply.status)
        except ValueError as error:
            says = "use the version of airdraft that the coordinator has"
            reason = f"the status cannot be read: {error}; {says}"
            raise RequestFailedError("internal", reason) from None

    async def _asked(self, kind: type[R], question: Callable[..., Any], *fields: Any) -> R:
        """Send a query with these fields behind its id, and return its reply."""
        async with PendingReply(self._inbox) as pending:
            self._send_on(question(pending.request_id, *fields))
            reply = await pending.next()
            assert isinstance(reply, kind)
            return reply

    # -- requests ----------------------------------------------------------------------------------

    async def read(self, prompt: Prompt, options: GenerateOptions, wants: str) -> ReadNotice:
        """Let a target read a prompt without generating. wants: one of messages.WANTS. Of the
        options, those for the model and its class, the chat template, user, tools and time are
        used. Raises RequestFailedError.
        """
        submit = replace(submit_of(prompt, _dated(options), 0), wants=wants)
        limit = TimeLimit(options.timeout_s, asyncio.get_running_loop().time())
        async with PendingReply(self._inbox, limit) as pending:
            try:
                await self._submit(replace(submit, request_id=pending.request_id), pending)
                reply = await pending.next()
            except BaseException as error:
                self._cancel(pending.request_id)
                is_unknown = isinstance(error, RequestFailedError) and error.code == "not_found"
                if is_unknown and self._awaits_nodes:
                    raise RequestFailedError("unavailable", _NOT_YET) from None
                raise
            assert isinstance(reply, ReadNotice)
            return reply

    async def generate(self, prompt: Prompt, options: GenerateOptions) -> Events:
        """Yield the events of one request until all its choices have finished.

        Closing the iterator early cancels the request. With `rejoins`, a lost coordinator is not an
        error: the request continues with the next one until its time limit. Raises
        RequestFailedError.
        """
        loop = asyncio.get_running_loop()
        # Without a seed the text could not be generated again.
        seed = secrets.randbits(SEED_BITS) if options.seed is None else options.seed
        journal = Journal(submit_of(prompt, _dated(options), seed))
        limit = TimeLimit(options.timeout_s, loop.time())
        num_tries, was_lost = 0, False
        if self._is_lost:
            self._on_waiting()
        while True:
            async with PendingReply(self._inbox, limit) as pending:
                try:
                    left_s = limit.deadline_s(loop.time())
                    await self._submit(journal.request(pending.request_id, left_s), pending)
                    while not journal.is_over:
                        message = await pending.next()
                        if isinstance(message, StartedNotice):
                            limit.apply(message.limit_s, loop.time())
                        for event in _news(journal, message):
                            num_tries = 0
                            yield event
                    return
                except RequestFailedError as error:
                    if error.code == "deadline":
                        if not (limit.is_known or was_lost or limit.is_over(loop.time())):
                            # Its limit may be that of the coordinator, which says so.
                            raise
                        # A coordinator that was found late would name only the rest of the time.
                        raise RequestFailedError(error.code, limit.exceeded) from None
                    was_lost |= isinstance(error, LostRequestError)
                    if not self._may_go_on(error, is_patient=was_lost or self._awaits_nodes):
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
                        self._cancel(pending.request_id)
            left_s = max(0.0, limit.give_up_at - loop.time())
            await asyncio.sleep(min(wait_before_s(num_tries), left_s))
            num_tries += 1

    def _may_go_on(self, error: RequestFailedError, *, is_patient: bool) -> bool:
        """Whether a request that failed may succeed at the next try.

        is_patient: whether the request waits if there is no room or no target yet.
        """
        if self._inbox.is_over or not self._rejoins:
            return False
        return isinstance(error, LostRequestError) or (is_patient and error.code in _PASSING)

    async def _submit(self, submit: SubmitRequest, pending: PendingReply) -> None:
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
                    message = await pending.next(takes_grants=True)
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

    def _cancel(self, request_id: int) -> None:
        """Have the mesh generate no more for a request that nobody reads."""
        self._cancelled[request_id] = None
        self._send_cancellations()

    def _send_cancellations(self) -> None:
        """Send those that wait, when the link is back, and at each message: while the mesh works on
        a request, messages arrive."""
        # Where the connection has ended, the transport may be closed, and no request goes on.
        while self._cancelled and not self._inbox.is_over:
            request_id = next(iter(self._cancelled))
            if not self._link.send(CancelRequest(request_id)):
                return
            del self._cancelled[request_id]

    def _send_on(self, message: Any) -> None:
        """Send a query or a part of a request. Raises LostRequestError if it cannot be sent."""
        if not self._link.send(message):
            raise LostRequestError(_NOT_SENT)

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
