"""Requests under way: limits their number and lets a request be ended from outside."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from airdraft.nodes.gateway.errors import ApiError, failed, of_exception

CANCELLED: Final = "cancelled"
T = TypeVar("T")


class Run:
    """One request. ended_by: the reason if it was ended from outside, otherwise None."""

    def __init__(self, request_id: str, key: str) -> None:
        # A request that gets the id of its Idempotency-Key gets it only once it holds that key.
        self.request_id = request_id
        self.key = key
        self.ended_by: ApiError | None = None
        self._cancel: Callable[[], object] = lambda: None

    def attach(self, task: asyncio.Task[Any]) -> None:
        """Set the task that runs the request; cancelling it frees the request in the mesh."""
        self._cancel = task.cancel
        if self.ended_by is not None:
            task.cancel()

    def end(self, reason: ApiError) -> None:
        if self.ended_by is None:
            self.ended_by = reason
            self._cancel()


async def result_of(run: Run, work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """Run work in a task that is cancelled when the client leaves or the run is ended.

    Raises ClientDisconnect then, or the reason for which the run was ended; otherwise ApiError if
    the work fails.
    """
    asking = asyncio.create_task(work)
    leaving = asyncio.create_task(_until_disconnect(receive))
    leaving.add_done_callback(lambda _leaving: asking.cancel())
    run.attach(asking)
    try:
        await asyncio.wait({asking})
    finally:
        asking.cancel()
        leaving.cancel()
        await asyncio.gather(asking, leaving, return_exceptions=True)
    if asking.cancelled():
        raise run.ended_by or ClientDisconnect()
    if (error := asking.exception()) is not None:
        raise of_exception(error) from error
    return asking.result()


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Running:
    """All requests under way, and the limits of their number."""

    def __init__(self, max_concurrent: int) -> None:
        self._max_concurrent = max_concurrent
        self._runs = set[Run]()
        self._stopping: ApiError | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._runs)

    def check_open(self) -> None:
        """Raises ApiError if the gateway takes no new requests."""
        if self._stopping is not None:
            # One exception is raised many times; its traceback would keep every caller's frames.
            raise self._stopping.with_traceback(None)

    @contextlib.contextmanager
    def entered(self, request_id: str, key: str, max_of_key: int) -> Iterator[Run]:
        self.check_open()
        if len(self._runs) >= self._max_concurrent:
            reason = f"{self._max_concurrent} requests are under way: try again later"
            raise failed("overloaded", reason)
        if sum(run.key == key for run in self._runs) >= max_of_key:
            reason = f"{max_of_key} requests of this key are under way: wait for one to end"
            raise failed("overloaded", reason)
        run = Run(request_id, key)
        self._runs.add(run)
        self._idle.clear()
        try:
            yield run
        finally:
            self._runs.remove(run)
            if not self._runs:
                self._idle.set()

    def cancel(self, request_id: str, key: str | None) -> bool:
        """End a request and return whether it was found. key: its API key, or None for any."""
        found = (run for run in self._runs if run.request_id == request_id)
        run = next(found, None)
        if run is None or key not in (None, run.key):
            return False
        # 410 rather than 409, because OpenAI's client retries a 409.
        run.end(
            ApiError(410, "the request was cancelled", kind="request_cancelled", code=CANCELLED)
        )
        return True

    def refuse_new(self, reason: ApiError) -> None:
        self._stopping = reason

    async def until_idle(self, limit_s: float) -> None:
        """Wait until all requests have ended; after limit_s, end the others.

        They end with the reason that refuse_new() was given.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._idle.wait()
        for run in list(self._runs):
            assert self._stopping is not None
            run.end(self._stopping)
