"""Asking a running mesh: submit a prompt, take its tokens as they come."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from mesh.messages import Welcome
from mesh.transport import ClientTransport
from nodes.cancellations import Cancellations
from nodes.engine.rules import NO_RULES, LogitRules
from nodes.link import Link
from nodes.messages import (
    DEFAULT_PRIORITY,
    ChatMessage,
    FinishedNotice,
    LinkFields,
    NodeCommandReply,
    NodeCommandRequest,
    NodesReply,
    NodesRequest,
    PromptLogprobsNotice,
    RequestFailedNotice,
    StartedNotice,
    StatusReply,
    StatusRequest,
    SubmitRequest,
    TokensNotice,
    TraceReply,
    TraceRequest,
    UploadGrant,
)
from nodes.status import Status, decode_status
from nodes.upload import ANSWER_LIMIT_S, GRANT_LIMIT_S, Granted, Upload, is_worth_offering

logger = logging.getLogger(__name__)

Event = StartedNotice | PromptLogprobsNotice | TokensNotice | FinishedNotice
# Text, token ids, or a conversation for the chat template.
Prompt = str | tuple[int, ...] | tuple[ChatMessage, ...]


_OVER = "the connection to the coordinator has ended"
_NOT_SENT = "the coordinator cannot be reached, or takes no more at present: try again"


class RequestFailedError(Exception):
    """The mesh ended a request; code as in RequestFailedNotice, the text is its reason."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """What to generate from a prompt; defaults are the command line's.

    chat: a prompt that is text is one message of a user, for the model's chat template. model: ""
    for any. user: owner of the request among those of this client. num_logprobs: None for none, or
    how many alternatives to each token. scores_prompt: log-probabilities of the prompt as well.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    gamma: int | None = None
    priority: int = DEFAULT_PRIORITY
    num_choices: int = 1
    stops: tuple[str, ...] = ()
    ignore_eog: bool = False
    chat: bool = True
    model: str = ""
    user: str = ""
    rules: LogitRules = NO_RULES
    num_logprobs: int | None = None
    scores_prompt: bool = False


class Client:
    """One connection to a coordinator; any number of requests at a time. run() it in a task."""

    def __init__(
        self,
        transport: ClientTransport,
        *,
        endpoint: str,
        join_timeout_s: float | None = 10.0,
        rejoins: bool = False,
        role: str = "client",
        declared: LinkFields | None = None,
    ) -> None:
        """role: client; gateway for one that asks for many users, admin for one that gives commands
        about nodes. A key needs it, too. declared: what is known of the link. On a shared medium
        large requests take turns.
        """
        self._declared = declared
        # Whether the coordinator answers offers, as far as is known.
        self._may_offer = True
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
        self._cancellations = Cancellations(self._link.send)
        self._ids = itertools.count(1)
        self._queues: dict[int, asyncio.Queue[Any]] = {}
        self._joined = asyncio.Event()
        self._is_over = False

    async def run(self) -> None:
        """Keep the connection; raises NoCoordinatorError, LostCoordinatorError or RefusedError."""
        try:
            await self._link.run()
        finally:
            # Whoever waits for an answer need not wait any more.
            self._is_over = True
            self._joined.set()
            for queue in self._queues.values():
                queue.put_nowait(None)

    @property
    def is_joined(self) -> bool:
        """Whether the coordinator is there; a request that is made while it is not waits for it."""
        return self._link.is_joined

    def on_joined(self, _welcome: Welcome) -> None:
        self._joined.set()
        self._may_offer = True
        self._cancellations.send_again()

    def _lost(self) -> None:
        """What is under way was of a membership that is over; who asks now waits for another."""
        self._joined.clear()
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
        """Who is in the mesh."""
        async with _Subscription(self) as (request_id, queue):
            self._link.send(NodesRequest(request_id))
            reply = await self._next(queue)
            assert isinstance(reply, NodesReply)
            return reply

    async def command_node(self, command: str, node: str) -> int:
        """drain, undrain or drop a node; how many streams it still has. For role admin.

        Raises RequestFailedError where that cannot be done.
        """
        async with _Subscription(self) as (request_id, queue):
            self._link.send(NodeCommandRequest(request_id, command, node))
            reply = await self._next(queue)
            assert isinstance(reply, NodeCommandReply)
            if reply.error:
                raise RequestFailedError("bad_request", reply.error)
            return reply.num_streams

    async def trace(self, after: int) -> TraceReply:
        """What was recorded after a number; -1 begins. Recording ends some seconds later."""
        async with _Subscription(self) as (request_id, queue):
            self._link.send(TraceRequest(request_id, after))
            reply = await self._next(queue)
            assert isinstance(reply, TraceReply)
            return reply

    async def status(self) -> Status:
        """What the mesh does. Raises RequestFailedError where this side does not understand it."""
        async with _Subscription(self) as (request_id, queue):
            self._link.send(StatusRequest(request_id))
            reply = await self._next(queue)
            assert isinstance(reply, StatusReply)
        try:
            return decode_status(reply.status)
        except ValueError as error:
            says = "use the version of airdraft that the coordinator has"
            reason = f"the status is not understood: {error}; {says}"
            raise RequestFailedError("internal", reason) from None

    async def generate(self, prompt: Prompt, options: GenerateOptions) -> AsyncIterator[Event]:
        """Events of one request until all its choices have finished.

        Closing the iterator early cancels the request. Raises RequestFailedError.
        """
        text, token_ids, messages = _kinds(prompt, options.chat)
        async with _Subscription(self) as (request_id, queue):
            submit = SubmitRequest(
                request_id=request_id,
                prompt=text,
                num_choices=options.num_choices,
                temperature=options.temperature,
                top_k=options.top_k,
                top_p=options.top_p,
                min_p=options.min_p,
                seed=-1 if options.seed is None else options.seed,
                max_tokens=options.max_tokens,
                stops=options.stops,
                ignore_eog=options.ignore_eog,
                gamma=-1 if options.gamma is None else options.gamma,
                priority=options.priority,
                prompt_token_ids=token_ids,
                messages=messages,
                model=options.model,
                user=options.user,
                rules=options.rules,
                num_logprobs=-1 if options.num_logprobs is None else options.num_logprobs,
                scores_prompt=options.scores_prompt,
            )
            left = options.num_choices
            try:
                await self._submit(submit, queue)
                while left:
                    message = await self._next(queue)
                    if isinstance(message, Granted):
                        # Of an upload that did not wait for it any more.
                        continue
                    if isinstance(message, FinishedNotice):
                        if message.finish_reason == "cancelled":
                            raise RequestFailedError("unavailable", "the request was cancelled")
                        left -= 1
                    yield message
            finally:
                if left:
                    self._cancellations.cancel(request_id)

    async def _submit(self, submit: SubmitRequest, queue: asyncio.Queue[Any]) -> None:
        """Send a request: large ones on a shared medium in pieces, when each may go."""
        link = self._declared
        frames = self._link.packed(submit) if link is not None and self._may_offer else []
        if link is None or not is_worth_offering(link, frames):
            if not self._link.send(submit):
                raise RequestFailedError("unavailable", _NOT_SENT)
            return
        upload = Upload(submit.request_id, frames)
        self._link.send(upload.offer(submit.priority, link))
        limit_s = ANSWER_LIMIT_S
        while not upload.is_over:
            try:
                async with asyncio.timeout(limit_s):
                    message = await self._next(queue)
            except TimeoutError:
                if limit_s == ANSWER_LIMIT_S:
                    # It knows nothing of offers: it is not asked again.
                    self._may_offer = False
                    self._link.send(submit)
                    return
                for piece in upload.rest():
                    self._link.send(piece)
                return
            limit_s = GRANT_LIMIT_S
            if isinstance(message, Granted) and message.grant.num_bytes:
                await asyncio.sleep(message.send_at - asyncio.get_running_loop().time())
                self._link.send(upload.piece(message.grant.num_bytes))

    async def _next(self, queue: asyncio.Queue[Any]) -> Any:
        if self._is_over and queue.empty():
            raise RequestFailedError("unavailable", _OVER)
        if not queue.empty():
            # Who takes what is there already lets nobody else have a turn, Ctrl-C included.
            await asyncio.sleep(0)
        message = await queue.get()
        if message is None and self._is_over:
            raise RequestFailedError("unavailable", _OVER)
        if message is None:
            raise RequestFailedError("unavailable", "the coordinator was lost")
        if isinstance(message, RequestFailedNotice):
            raise RequestFailedError(message.code, message.reason)
        return message

    def close(self) -> None:
        self._link.say_bye("done")


def _kinds(prompt: Prompt, is_chat: bool) -> tuple[str, tuple[int, ...], tuple[ChatMessage, ...]]:
    """A prompt as text, token ids and messages: one of them, the others empty."""
    if isinstance(prompt, str):
        return ("", (), (ChatMessage("user", prompt),)) if is_chat else (prompt, (), ())
    messages = tuple(item for item in prompt if isinstance(item, ChatMessage))
    return "", tuple(item for item in prompt if isinstance(item, int)), messages


class _Subscription:
    """A request id and the queue of what comes for it."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def __aenter__(self) -> tuple[int, asyncio.Queue[Any]]:
        while not (self._client.is_joined or self._client._is_over):
            await self._client._joined.wait()
        self._request_id = next(self._client._ids)
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self._client._queues[self._request_id] = queue
        return self._request_id, queue

    async def __aexit__(self, *_exc: object) -> None:
        del self._client._queues[self._request_id]
