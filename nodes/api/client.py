"""The interface for asyncio: a connection, and requests as awaitables and iterators."""

from __future__ import annotations

import asyncio
import contextlib
import operator
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Self, TypedDict, Unpack, cast

from airdraft.mesh.endpoints import check_connect
from airdraft.mesh.errors import LocalProtocolError, MeshError
from airdraft.mesh.keys import ClientKeys
from airdraft.mesh.zmq_transport import ZmqContext
from airdraft.nodes.api.answers import Assembly, Completion, Piece
from airdraft.nodes.api.errors import (
    AnswerTimeoutError,
    ConnectError,
    ConnectionLostError,
    InvalidRequestError,
    RequestError,
    request_error,
)
from airdraft.nodes.client.client import Events, MeshClient, RequestFailedError
from airdraft.nodes.client.generation import GenerateOptions, Prompt
from airdraft.nodes.config.settings import ConfigError, LinkSettings
from airdraft.nodes.config.sources import environment
from airdraft.nodes.engine.chat.tools import told_switch
from airdraft.nodes.keys.keyring import keyring_of
from airdraft.nodes.messages import ChatMessage, NodeFields
from airdraft.nodes.messages.fingerprint import parts_of

# Messages as ChatMessage, as (role, content), or as mappings with these two keys.
Conversation = Iterable[ChatMessage | tuple[str, str] | Mapping[str, str]]


class Options(TypedDict, total=False):
    """Options of a request. The default of sampling is greedy: temperature 0, all tokens.

    max_tokens: The maximum number of tokens of a choice.
    temperature: The temperature of sampling; 0 always takes the likeliest token.
    top_k: The number of likeliest tokens that are kept; 0 keeps all.
    top_p: The total probability that the likeliest tokens kept must reach.
    min_p: The lowest probability that is kept, relative to the likeliest token's.
    seed: The seed of sampling. None draws one, which the answer contains.
    gamma: The maximum number of guesses per pass. None chooses the fastest.
    priority: The weight of this request's speed against other requests, 1 to 10.
    num_choices: The number of texts.
    stops: Texts before which the answer ends.
    ignore_eog: Whether the text continues after an end-of-text token.
    model: The name of the model; empty for any.
    user: The owner of the request among those of this client. Caches share prompts only between
        requests of one owner.
    fingerprint: The fingerprint of an earlier answer. Only a target that has it serves this
        request; without one the request fails.
    timeout_s: The limit, in seconds, of the time of the whole answer, waiting included. None leaves
        it to the coordinator.
    thinking: Whether the model thinks before it answers in a chat, if its template can switch this.
        None leaves it to the model.
    """

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int | None
    gamma: int | None
    priority: int
    num_choices: int
    stops: tuple[str, ...]
    ignore_eog: bool
    model: str
    user: str
    fingerprint: str
    timeout_s: float | None
    thinking: bool | None


class AsyncClient:
    """A connection to a mesh, made by connect(); any number of requests may be under way."""

    def __init__(self, client: MeshClient, serving: asyncio.Task[None]) -> None:
        self._client = client
        self._serving = serving
        self._loop = asyncio.get_running_loop()

    async def complete(self, prompt: str | Iterable[int], **options: Unpack[Options]) -> Completion:
        """Continue a text, or token ids.

        Raises RequestError, AnswerTimeoutError or ConnectionLostError.
        """
        return await self.stream(prompt, **options).completed()

    async def chat(self, messages: str | Conversation, **options: Unpack[Options]) -> Completion:
        """Answer a conversation with the model's chat template; a text is one user message.

        Raises what complete() raises.
        """
        return await self.stream_chat(messages, **options).completed()

    def stream(self, prompt: str | Iterable[int], **options: Unpack[Options]) -> AsyncStream:
        """Send the request of complete() and return the answer piece by piece."""
        # Token ids may be integers of other libraries, such as those of NumPy.
        text = prompt if isinstance(prompt, str) else tuple(map(operator.index, prompt))
        return self._ask(text, options, is_chat=False)

    def stream_chat(self, messages: str | Conversation, **options: Unpack[Options]) -> AsyncStream:
        """Send the request of chat() and return the answer piece by piece."""
        if isinstance(messages, str):
            messages = (ChatMessage("user", messages),)
        conversation = tuple(_message(item) for item in messages)
        return self._ask(conversation, options, is_chat=True)

    async def nodes(self) -> tuple[NodeFields, ...]:
        """Returns the nodes in the mesh."""
        try:
            return (await self._client.nodes()).nodes
        except RequestFailedError as error:
            raise self._error(error) from error

    def _ask(self, prompt: Prompt, options: Options, *, is_chat: bool) -> AsyncStream:
        wanted = _options_of(options, chat=is_chat)
        return AsyncStream(self, self._client.generate(prompt, wanted), wanted)

    def _error(self, error: RequestFailedError) -> Exception:
        """The public exception for a failed request, or for the lost connection that caused it."""
        if self._serving.done():
            return ConnectionLostError(_reason_of(_error_of(self._serving)))
        return request_error(error.code, str(error))


class AsyncStream(AsyncIterator[Piece]):
    """An asynchronous iterator over the pieces of an answer.

    Leaving it before its end cancels the request. `async with client.stream(...) as pieces:`
    cancels it at the end of the block, also after an exception.
    """

    def __init__(self, client: AsyncClient, events: Events, options: GenerateOptions) -> None:
        self._client = client
        self._events = events
        self._assembly = Assembly(options.num_choices)
        self._timeout_s = options.timeout_s
        self._loop = client._loop
        self._asked_at = self._loop.time()
        self._completion: Completion | None = None
        # The time limit of the task that awaits the next piece, and whether another one closed it.
        self._waiting: asyncio.Timeout | None = None
        self._is_closed = False

    @property
    def seed(self) -> int | None:
        """The seed of the text; None before the first piece."""
        return self._assembly.seed

    @property
    def completion(self) -> Completion | None:
        """The whole answer, once the last piece has been read."""
        return self._completion

    async def completed(self) -> Completion:
        """Read what is left and return the whole answer.

        Raises RequestError if the request was cancelled or has failed before its end.
        """
        async with self:
            async for _ in self:
                pass
        if self._completion is None:
            raise RequestError("the stream was left before its end: send the request again")
        return self._completion

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        if self._completion is not None:
            raise StopAsyncIteration
        limit = None if self._timeout_s is None else self._asked_at + self._timeout_s
        try:
            async with asyncio.timeout_at(limit) as self._waiting:
                try:
                    piece = None
                    while piece is None or not (
                        piece.text or piece.token_ids or piece.finish_reason
                    ):
                        piece = self._assembly.take(await anext(self._events))
                finally:
                    self._waiting = None
            if self._is_closed:
                # The piece came in the instant in which the other task closed the stream.
                await self._events.aclose()
            return piece
        except StopAsyncIteration:
            # A request that failed or was cancelled has no completion.
            if not self._assembly.is_complete:
                raise
            self._completion = self._assembly.completion(self._loop.time() - self._asked_at)
            raise
        except TimeoutError:
            await self._events.aclose()
            if self._is_closed:
                raise StopAsyncIteration from None
            raise AnswerTimeoutError(self._too_late()) from None
        except RequestFailedError as error:
            if error.code == "deadline" and self._timeout_s is not None:
                raise AnswerTimeoutError(self._too_late()) from None
            raise self._client._error(error) from error
        except LocalProtocolError as error:
            raise InvalidRequestError(str(error)) from error

    def _too_late(self) -> str:
        return f"no whole answer within {self._timeout_s:g} s"

    async def aclose(self) -> None:
        """Cancel the request if it is still under way.

        For a task that awaits its next piece meanwhile it ends, too, without a completion.
        """
        if self._waiting is None:
            await self._events.aclose()
        elif not self._waiting.expired():
            # A generator cannot be closed while it runs, so the task that awaits a piece closes it.
            self._is_closed = True
            self._waiting.reschedule(self._loop.time())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()


def _options_of(options: Options, *, chat: bool) -> GenerateOptions:
    """Translate the options. Raises InvalidRequestError for an invalid seed or fingerprint."""
    given = dict(options)
    seed = options.get("seed")
    if seed is not None and seed < 0:
        raise InvalidRequestError(f"seed = {seed}: 0 or more is accepted, and None draws one")
    try:
        given_fingerprint = str(given.pop("fingerprint", ""))
        model_hash, numerics_class = parts_of(given_fingerprint) if given_fingerprint else ("", "")
    except ValueError as error:
        raise InvalidRequestError(f"fingerprint = {given_fingerprint!r}: {error}") from None
    thinking = cast(bool | None, given.pop("thinking", None))
    return GenerateOptions(
        chat=chat,
        tools=told_switch(thinking) if chat else "",
        model_hash=model_hash,
        numerics_class=numerics_class,
        **given,  # type: ignore[arg-type]
    )


def _message(item: Any) -> ChatMessage:
    """Convert a message to ChatMessage. Raises TypeError or ValueError if it is invalid."""
    if isinstance(item, ChatMessage):
        return item
    if isinstance(item, Mapping):
        if set(item) != {"role", "content"}:
            raise ValueError("a message must have exactly the keys role and content")
        item = (item["role"], item["content"])
    role, content = item
    if not isinstance(role, str) or not isinstance(content, str):
        raise TypeError("role and content of a message must be strings")
    return ChatMessage(role, content)


@contextlib.asynccontextmanager
async def connect(
    endpoint: str = "",
    *,
    key: str | os.PathLike[str] | ClientKeys | None = None,
    timeout_s: float = 10.0,
    on_waiting: Callable[[], object] = lambda: None,
    air: str = "",
    rate_kbps: float = 0.0,
) -> AsyncIterator[AsyncClient]:
    """Connect to a running mesh; leaving the block cancels requests that are under way.

    If the coordinator is lost, requests wait until it is back and then continue where they were.

    endpoint is, for example, `tcp://10.0.0.1:7411`; empty means the mesh that this machine joined,
    or else the one on this machine. key is the directory of key files that `airdraft join` fills;
    None means the default one. timeout_s limits the time of joining. on_waiting is called when a
    request has to wait. air names the shared medium of this machine, as in the settings of nodes,
    and rate_kbps is its rate for this machine alone; 0 means that it is measured. Raises
    ConnectError.
    """
    keys: ClientKeys | None
    try:
        link = LinkSettings(air=air, rate_kbps=rate_kbps)
        if isinstance(key, ClientKeys):
            check_connect(endpoint)
            keys = key
        else:
            ring = keyring_of(None if key is None else os.fspath(key), environment())
            endpoint, keys = ring.link(endpoint)
    except (ConfigError, MeshError) as error:
        raise ConnectError(str(error)) from error
    with ZmqContext() as context:
        client = MeshClient(
            context.connect(endpoint, keys, interactive=bool(air)),
            endpoint=endpoint,
            join_timeout_s=timeout_s,
            rejoins=True,
            declared=link.declared(),
            on_waiting=on_waiting,
        )
        async with client.running() as serving:
            try:
                await client.nodes()
            except RequestFailedError as error:
                if serving.done():
                    cause = _error_of(serving)
                    raise ConnectError(_reason_of(cause)) from cause or error
                raise request_error(error.code, str(error)) from error
            yield AsyncClient(client, serving)


def _error_of(serving: asyncio.Task[None]) -> BaseException | None:
    """Why a connection has ended; None if this program closed it."""
    error = None if serving.cancelled() else serving.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _reason_of(error: BaseException | None) -> str:
    return "the client was closed" if error is None else str(error)
