"""Runs one request, from its checked body to the end of its answer, streamed or whole."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.client.generation import GenerateOptions, Prompt
from airdraft.nodes.gateway.answers import Answers, Delta, Joined, split
from airdraft.nodes.gateway.errors import ApiError, unavailable
from airdraft.nodes.gateway.fields import Job
from airdraft.nodes.gateway.guard import connection_of, metrics_of
from airdraft.nodes.gateway.running import Run, result_of
from airdraft.nodes.gateway.scores import ScoresOfAnswer
from airdraft.nodes.gateway.sending import JsonInPieces
from airdraft.nodes.gateway.shape import Api, now_unix
from airdraft.nodes.messages import StartedNotice, TokensNotice

_OnDelta = Callable[[Delta], Awaitable[None]]


class Exchange:
    """One request and its answer. answers: what has arrived so far. failure: why the rest is
    missing, or None.

    scope: of the HTTP request, whose connection may have to be closed.
    """

    def __init__(
        self, mesh: MeshClient, job: Job, api: Api, run: Run, scores: ScoresOfAnswer, scope: Scope
    ) -> None:
        self._mesh = mesh
        self._job = job
        self._run = run
        self._scores = scores
        self._metrics = metrics_of(scope)
        self._connection = connection_of(scope)
        self._largest_bytes = 0
        self.answers = Answers(job, run.request_id, now_unix())
        self._shape = api.shape(self.answers)
        # Whether any part of the answer has been handed to the client.
        self.has_begun = False
        self._was_dropped = False
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

    async def whole(self, receive: Receive) -> ASGIApp:
        """Returns an answer that is not streamed. Raises ApiError or ClientDisconnect."""
        choices = dict[int, Joined]()

        async def on_delta(delta: Delta) -> None:
            choices.setdefault(delta.index, Joined(delta.index)).add(delta)

        await result_of(self._run, self._ask_all(on_delta), receive)
        self.has_begun = True
        # Each is let go when it has been written.
        in_order = (choices.pop(index).delta() for index in sorted(choices))
        return JsonInPieces(self._shape.whole(in_order), self._headers())

    async def stream(self, receive: Receive, send: Send, max_unsent_bytes: int) -> ASGIApp:
        """Send events as they arrive, and return what sends the end of the stream.

        The connection is aborted if more bytes wait for its reader, on top of the largest event.
        Raises ApiError before the first event, and ClientDisconnect.
        """

        telling = asyncio.Lock()

        async def on_delta(delta: Delta) -> None:
            parts = list(split(delta))
            async with telling:
                for part in parts:
                    # The content is empty while a text may be the beginning of a call.
                    if content := self._shape.chunks(part):
                        await self._tell(content, send, max_unsent_bytes)
                    if len(parts) > 1:
                        # For a long echo the reader gets the time that it needs, and others turns.
                        await self._connection.until_read()
                        await asyncio.sleep(0)

        try:
            await result_of(self._run, self._ask_all(on_delta), receive)
            end = self._shape.end()
        except ApiError as error:
            if not self.has_begun:
                raise
            self.failure = error
            end = self._shape.failed(error)
            # A client must not mistake a stream that failed for a whole one.
            self._connection.end_after_this()

        async def ending(_scope: Scope, _receive: Receive, send: Send) -> None:
            await self._tell(end, send, max_unsent_bytes)
            if self._was_dropped:
                raise ClientDisconnect
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        return ending

    async def _tell(self, content: bytes, send: Send, max_unsent_bytes: int) -> None:
        """Send a part of a stream. It waits for the reader only until a connection that was aborted
        is closed, so that parts of several prompts keep their order."""
        self._largest_bytes = max(self._largest_bytes, len(content))
        self._connection.make_room(max_unsent_bytes + self._largest_bytes)
        if self._connection.is_full:
            self._was_dropped = True
            self._connection.abort()
        if not self.has_begun:
            self.has_begun = True
            headers = {"content-type": "text/event-stream; charset=utf-8", **self._headers()}
            start = {"type": "http.response.start", "status": 200, "headers": Headers(headers).raw}
            await send(start)
        await send({"type": "http.response.body", "body": content, "more_body": True})

    async def _ask_all(self, on_delta: _OnDelta) -> None:
        """Answer all prompts of a body with the numerics class that serves the first one."""
        waiting = iter(enumerate(self._job.prompts))

        async def ask(index: int, prompt: Prompt, options: GenerateOptions) -> None:
            # Closing the generator frees the request in the mesh; garbage collection would do it
            # later.
            async with contextlib.aclosing(self._mesh.generate(prompt, options)) as events:
                async for event in events:
                    match event:
                        case StartedNotice(model_hash=model, numerics_class=kind):
                            self._scores.count(index, event.num_prompt_tokens)
                            pinned = replace(options, model_hash=model, numerics_class=kind)
                            for each in waiting:
                                group.create_task(ask(*each, pinned))
                        case TokensNotice():
                            choice = index * self._job.options.num_choices + event.choice
                            self._metrics.tokens_came(choice, len(event.token_ids))
                    delta = self.answers.on_event(index, event)
                    if delta is not None:
                        await on_delta(delta)

        async with asyncio.TaskGroup() as group:
            await ask(*next(waiting), self._job.options)
        if not self.answers.is_whole:
            raise unavailable("the mesh did not send the end of the answer: try again")
