"""Runs one request, from its checked body to the end of its answer, streamed or whole."""

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nodes.client.client import Client, Event
from nodes.client.generation import GenerateOptions, Prompt
from nodes.gateway.answers import Answers, Delta, joined
from nodes.gateway.config import GatewayLimits
from nodes.gateway.errors import ApiError, of_exception, unavailable
from nodes.gateway.event_ids import Told
from nodes.gateway.fields import Job
from nodes.gateway.guard import connection_of, metrics_of
from nodes.gateway.running import Run, started
from nodes.gateway.shape import Head, Shape, now_unix
from nodes.messages import StartedNotice, TokensNotice
from nodes.service.runtime import first_cause

_OnEvent = Callable[[int, Event], None]
# A write is small compared with the bound, so that the transport buffers little.
_WRITE_BYTES: Final = 16_384


class SlowReaderError(Exception):
    """The reader is slower than the stream, and the outbox is full."""


class Outbox:
    """One task fills it, another empties it. max_bytes: the bound, on top of the largest event."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts = bytearray()
        self._largest = 0
        self._ready = asyncio.Event()
        self._is_closed = False
        self.was_dropped = False

    def put(self, event: bytes) -> None:
        """Add an event. Raises SlowReaderError if too much waits; the rest is dropped then."""
        self._largest = max(self._largest, len(event))
        if len(self._parts) + len(event) > self._max_bytes + self._largest:
            self._parts.clear()
            self.was_dropped = True
            self.close()
            raise SlowReaderError
        self._parts += event
        self._ready.set()

    def close(self) -> None:
        self._is_closed = True
        self._ready.set()

    async def take(self) -> bytes:
        """Wait for bytes to send; b"" at the end."""
        await self._ready.wait()
        taken = bytes(self._parts[:_WRITE_BYTES])
        del self._parts[:_WRITE_BYTES]
        if not self._parts and not self._is_closed:
            self._ready.clear()
        return taken


class Exchange:
    """One request and its answer. answers: what has arrived so far. failure: why the rest is
    missing, or None.

    scope: of the HTTP request, whose connection may have to be closed. told: for a stream whose
    events have ids, the part that its reader has; only the rest is sent.
    """

    def __init__(
        self, mesh: Client, job: Job, shape: Shape, run: Run, scope: Scope, told: Told | None = None
    ) -> None:
        self._mesh = mesh
        self._job = job
        self._shape = shape
        self._run = run
        self._created_unix = now_unix()
        self._metrics = metrics_of(scope)
        self._connection = connection_of(scope)
        self._told = told
        self.answers = Answers(job)
        # Whether any part of the answer has been handed to the client.
        self.has_told = False
        self.failure: ApiError | None = None

    def _headers(self) -> dict[str, str]:
        """Headers of every answer; a stream without usage reports the seed only here."""
        seed = str(self._job.options.seed)
        found = {"x-request-id": self._run.request_id, "x-airdraft-seed": seed}
        if names := ", ".join(hint.path for hint in self._job.ignored):
            # Names of fields may hold any characters. JSON escapes all but one of those that a
            # header may not have.
            text = json.dumps(f"ignored: {names}").replace("\x7f", "\\u007f")
            found["warning"] = f"299 airdraft {text}"
        return found

    async def whole(self, receive: Receive) -> Response:
        """Return an answer that is not streamed. Raises ApiError or ClientDisconnect."""
        deltas = defaultdict[int, list[Delta]](list)

        def on_event(prompt_index: int, event: Event) -> None:
            delta = self.answers.on_event(prompt_index, event)
            if delta is not None:
                deltas[delta.index].append(delta)

        async with started(self._run, self._ask_all_or_fail(on_event), receive) as asking:
            await asyncio.wait({asking})
        if asking.cancelled():
            raise self._run.ended_by or ClientDisconnect()
        if self.failure is not None:
            raise self.failure
        self.has_told = True
        choices = [joined(deltas[index]) for index in sorted(deltas)]
        content = self._shape.whole(self._head(), choices, self.answers.usage())
        return Response(content, headers=self._headers(), media_type="application/json")

    async def stream(self, receive: Receive, send: Send, limits: GatewayLimits) -> None:
        """Send events as they arrive. Raises ApiError before the first event, and ClientDisconnect.

        A request is dropped if more than max_unsent_bytes wait for its reader.
        """
        # The transport buffers another write or two.
        outbox = Outbox(limits.max_unsent_bytes // 2)
        loop = asyncio.get_running_loop()
        timers: list[asyncio.TimerHandle] = []
        is_over = False

        def on_filled(_asking: asyncio.Task[None]) -> None:
            outbox.close()
            # Until now the outbox's bound detected slow readers. If sending has failed or its task
            # was cancelled, it has ended before this call.
            if not is_over:
                timers.append(loop.call_later(limits.write_timeout_s, self._connection.abort))

        async with started(self._run, self._fill(outbox), receive) as asking:
            asking.add_done_callback(on_filled)
            try:
                await self._send(outbox, send, asking)
            finally:
                is_over = True
                for timer in timers:
                    timer.cancel()

    async def _fill(self, outbox: Outbox) -> None:
        def on_event(prompt_index: int, event: Event) -> None:
            delta = self.answers.on_event(prompt_index, event)
            if delta is None:
                return
            if self._told is not None:
                delta = self._told.rest(delta)
                self._told.fingerprint = self.answers.fingerprint
            # The content is empty if the reader already has this part.
            if content := self._shape.chunks(self._head(), delta, self._told):
                self.has_told = True
                outbox.put(content)

        try:
            await self._ask_all_or_fail(on_event)
            if self.failure is not None:
                # Before the first event the failure becomes the status.
                if self.has_told:
                    outbox.put(self._shape.failed(self.failure))
                return
            outbox.put(self._shape.end(self._head(), self.answers.usage(), self._told))
        except SlowReaderError:
            self._connection.abort()

    async def _send(self, outbox: Outbox, send: Send, asking: asyncio.Task[None]) -> None:
        part = await outbox.take()
        if not part:
            raise self.failure or self._run.ended_by or ClientDisconnect()
        headers = {"content-type": "text/event-stream; charset=utf-8", **self._headers()}
        await send({"type": "http.response.start", "status": 200, "headers": Headers(headers).raw})
        self._metrics.stream_opened()
        while part:
            await send({"type": "http.response.body", "body": part, "more_body": True})
            part = await outbox.take()
        if outbox.was_dropped or asking.cancelled():
            raise ClientDisconnect
        if self.failure is not None:
            # A client must not mistake a stream that failed for a whole one.
            self._connection.end_after_this()
        elif asking.done():
            # This raises an internal fault after the last token: the stream gets no end mark then.
            asking.result()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _head(self) -> Head:
        answers = self.answers
        return Head(
            self._run.request_id,
            self._created_unix,
            answers.model,
            answers.fingerprint,
            answers.num_prompt_tokens,
        )

    async def _ask_all_or_fail(self, on_event: _OnEvent) -> None:
        """Run the request until the answer is complete or `failure` is set.

        Raises SlowReaderError from on_event, and CancelledError when the client has left.
        """
        try:
            await self._ask_all(on_event)
            if not self.answers.is_whole:
                self.failure = unavailable("the mesh did not send the end of the answer: try again")
        except asyncio.CancelledError:
            if self._run.ended_by is None:
                raise
            self.failure = self._run.ended_by
        except Exception as error:  # noqa: BLE001 - the client must receive any failure
            cause = first_cause(error)
            if isinstance(cause, SlowReaderError):
                raise cause from None
            self.failure = of_exception(cause)

    async def _ask_all(self, on_event: _OnEvent) -> None:
        """Answer all prompts of a body with the numerics class that serves the first one."""
        (first, *others), options = self._job.prompts, self._job.options
        if not others:
            await self._ask(0, first, options, on_event)
            return
        placed: asyncio.Future[StartedNotice] = asyncio.get_running_loop().create_future()

        def on_first(index: int, event: Event) -> None:
            if isinstance(event, StartedNotice) and not placed.done():
                placed.set_result(event)
            on_event(index, event)

        async with asyncio.TaskGroup() as group:
            asking = group.create_task(self._ask(0, first, options, on_first))
            either: set[asyncio.Future[Any]] = {asking, placed}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not placed.done():
                return
            kind = placed.result()
            options = replace(
                options, model_hash=kind.model_hash, numerics_class=kind.numerics_class
            )
            for index, prompt in enumerate(others, 1):
                group.create_task(self._ask(index, prompt, options, on_event))

    async def _ask(
        self, index: int, prompt: Prompt, options: GenerateOptions, on_event: _OnEvent
    ) -> None:
        # Closing the generator frees the request in the mesh; garbage collection would be later.
        async with contextlib.aclosing(self._mesh.generate(prompt, options)) as events:
            async for event in events:
                match event:
                    case StartedNotice():
                        self._metrics.started(index, event.num_prompt_tokens)
                    case TokensNotice():
                        choice = index * self._job.options.num_choices + event.choice
                        self._metrics.tokens_came(choice, len(event.token_ids))
                on_event(index, event)
