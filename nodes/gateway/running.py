"""Requests under way: how many each key may have, and how one of them is ended from outside."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

from starlette.types import Receive

from nodes.gateway.errors import ApiError, overloaded

CANCELLED: Final = "cancelled"
T = TypeVar("T")


class Run:
    """One request. ended_by: why it was ended from outside, if it was."""

    def __init__(self, request_id: str, key: str) -> None:
        self.request_id = request_id
        self.key = key
        self.ended_by: ApiError | None = None
        self._cancel: Callable[[], object] = lambda: None

    def attach(self, task: asyncio.Task[Any]) -> None:
        """The task that asks the mesh: its end frees the request there."""
        self._cancel = task.cancel
        if self.ended_by is not None:
            task.cancel()

    def end(self, reason: ApiError) -> None:
        if self.ended_by is None:
            self.ended_by = reason
            self._cancel()


class ClientLeftError(Exception):
    """Whoever asked is gone, or was too slow to be told more."""


@contextlib.asynccontextmanager
async def started(
    run: Run, work: Coroutine[Any, Any, T], receive: Receive
) -> AsyncIterator[asyncio.Task[T]]:
    """A task that ends when it is done, when whoever asked leaves, or with the run."""
    asking = asyncio.create_task(work)
    leaving = asyncio.create_task(_left(receive))
    leaving.add_done_callback(lambda _leaving: asking.cancel())
    run.attach(asking)
    try:
        yield asking
    finally:
        asking.cancel()
        leaving.cancel()
        await asyncio.gather(asking, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Running:
    """All requests under way. Raises ApiError where there are too many."""

    def __init__(self, max_concurrent: int) -> None:
        self._max_concurrent = max_concurrent
        self._runs: dict[str, Run] = {}
        self._of_key: Counter[str] = Counter()
        self._stopping: ApiError | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def is_stopping(self) -> bool:
        return self._stopping is not None

    def check_open(self) -> None:
        """Raises ApiError where no new requests are taken."""
        if self._stopping is not None:
            # The same one each time: with its traceback it would keep the frames of all of them.
            raise self._stopping.with_traceback(None)

    @contextlib.contextmanager
    def entered(self, request_id: str, key: str, max_of_key: int) -> Iterator[Run]:
        self.check_open()
        if len(self._runs) >= self._max_concurrent:
            raise overloaded(f"{self._max_concurrent} requests are under way: ask again later")
        if self._of_key[key] >= max_of_key:
            raise overloaded(f"{max_of_key} requests of this key are under way: let one end first")
        run = self._runs[request_id] = Run(request_id, key)
        self._of_key[key] += 1
        self._idle.clear()
        try:
            yield run
        finally:
            del self._runs[run.request_id]
            self._of_key[key] -= 1
            if not self._of_key[key]:
                del self._of_key[key]
            if not self._runs:
                self._idle.set()

    def rename(self, run: Run, request_id: str) -> None:
        """Give a request another id, which none that is under way has."""
        assert request_id not in self._runs
        del self._runs[run.request_id]
        run.request_id = request_id
        self._runs[request_id] = run

    def cancel(self, request_id: str, key: str | None) -> bool:
        """End a request of a key, or of any where it is None; whether there is one."""
        run = self._runs.get(request_id)
        if run is None or key not in (None, run.key):
            return False
        # 410 and not 409: that one is tried again by OpenAI's client.
        run.end(
            ApiError(410, "the request was cancelled", kind="request_cancelled", code=CANCELLED)
        )
        return True

    def refuse_new(self, reason: ApiError) -> None:
        self._stopping = reason

    async def until_idle(self, limit_s: float) -> None:
        """Wait for all to end by themselves; those that do not are ended with the reason."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._idle.wait()
        for run in list(self._runs.values()):
            assert self._stopping is not None
            run.end(self._stopping)
