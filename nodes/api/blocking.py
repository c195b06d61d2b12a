"""The interface for programs without asyncio: runs the client on an event loop in a thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Self, TypeVar, Unpack

from airdraft.mesh.keys import ClientKeys
from airdraft.nodes.api.answers import Completion, Piece
from airdraft.nodes.api.client import AsyncClient, AsyncStream, Conversation, Options, connect
from airdraft.nodes.api.errors import ConnectionLostError
from airdraft.nodes.messages import NodeFields

T = TypeVar("T")

_CLOSE_LIMIT_S = 5.0


class Client:
    """A connection to a mesh, usable from any thread; a `with` block or close() ends it.

    It connects as it is made, with the arguments of connect().
    """

    def __init__(
        self,
        endpoint: str = "",
        *,
        key: str | os.PathLike[str] | ClientKeys | None = None,
        timeout_s: float = 10.0,
        on_waiting: Callable[[], object] = lambda: None,
        air: str = "",
        rate_kbps: float = 0.0,
    ) -> None:
        """Wait until it is connected.

        on_waiting is called in the client's own thread: it may close the client, but not wait for
        an answer of it.
        """
        connecting = connect(
            endpoint,
            key=key,
            timeout_s=timeout_s,
            on_waiting=on_waiting,
            air=air,
            rate_kbps=rate_kbps,
        )
        self._started: concurrent.futures.Future[AsyncClient] = concurrent.futures.Future()
        # Held to give work to the loop, and to declare that the loop takes no more.
        self._taking = threading.Lock()
        self._is_over = False
        self._pid = os.getpid()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(connecting)),
            name="airdraft-client",
            # A program that does not close the client can still exit.
            daemon=True,
        )
        self._thread.start()
        try:
            self._client = self._started.result()
        except BaseException:
            self.close()
            raise

    async def _serve(self, connecting: AbstractAsyncContextManager[AsyncClient]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with connecting as client:
                self._started.set_result(client)
                await self._stop.wait()
        except Exception as error:  # noqa: BLE001 - raised where the client was made
            if not self._started.done():
                self._started.set_exception(error)
        finally:
            with self._taking:
                self._is_over = True

    def complete(self, prompt: str | Iterable[int], **options: Unpack[Options]) -> Completion:
        """Continue a text, or token ids, as AsyncClient.complete() does."""
        return self._wait(self._client.complete(prompt, **options))

    def chat(self, messages: str | Conversation, **options: Unpack[Options]) -> Completion:
        """Answer a conversation, as AsyncClient.chat() does."""
        return self._wait(self._client.chat(messages, **options))

    def stream(self, prompt: str | Iterable[int], **options: Unpack[Options]) -> Stream:
        """Send the request of complete() and return the answer piece by piece."""
        return Stream(self, self._client.stream(prompt, **options))

    def stream_chat(self, messages: str | Conversation, **options: Unpack[Options]) -> Stream:
        """Send the request of chat() and return the answer piece by piece."""
        return Stream(self, self._client.stream_chat(messages, **options))

    def nodes(self) -> tuple[NodeFields, ...]:
        """Returns the nodes in the mesh."""
        return self._wait(self._client.nodes())

    def close(self) -> None:
        """End the connection and its thread; requests under way are cancelled."""
        with contextlib.suppress(RuntimeError, AttributeError):
            # The loop may be closed already, or may never have started.
            self._loop.call_soon_threadsafe(self._stop.set)
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_LIMIT_S)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if os.getpid() != self._pid:
            # A fork has no thread that would do the work.
            work.close()
            raise ConnectionLostError("the client belongs to another process: open one in this one")
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("on_waiting cannot wait for an answer: the client waits for its end")
        with self._taking:
            # A loop that is about to close drops what it is given, and nobody would get an answer.
            if self._is_over:
                work.close()
                raise ConnectionLostError("the client was closed")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ConnectionLostError("the client was closed") from None
        finally:
            # After Ctrl-C in this thread, this cancels the request in the client's thread.
            future.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class Stream(Iterator[Piece]):
    """An iterator over the pieces of an answer: like AsyncStream, for `with` and `for`."""

    def __init__(self, client: Client, stream: AsyncStream) -> None:
        self._client = client
        self._stream = stream

    @property
    def seed(self) -> int | None:
        """The seed of the text; None before the first piece."""
        return self._stream.seed

    @property
    def completion(self) -> Completion | None:
        """The whole answer, once the last piece has been read."""
        return self._stream.completion

    def __next__(self) -> Piece:
        piece = self._client._wait(self._next())
        if piece is None:
            raise StopIteration
        return piece

    async def _next(self) -> Piece | None:
        # A coroutine whose result another thread takes cannot raise StopAsyncIteration.
        return await anext(self._stream, None)

    def close(self) -> None:
        """Cancel the request if it is still under way."""
        with contextlib.suppress(ConnectionLostError):
            self._client._wait(self._stream.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        # The stream was left early, for example by break; this must not wait.
        with contextlib.suppress(RuntimeError, AttributeError):
            loop = self._client._loop
            loop.call_soon_threadsafe(lambda: loop.create_task(self._stream.aclose()))
