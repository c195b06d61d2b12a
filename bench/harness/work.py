"""Streams that send one request after another, and requests through real clients."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace

from bench.harness.cases import Case
from bench.harness.history import Record
from nodes.client.client import Client, RequestFailedError

# Sends a request, given the numbers of stream and request; returns whether it finished.
Ask = Callable[[int, int], Awaitable[bool]]
# Wait this long after a deadline, to tell requests that end too late from those that never end.
PATIENCE_S = 3.0
# Pause between a request that failed and the next, so that refused streams do not flood the mesh.
_PAUSE_S = 0.05


async def ask(
    client: Client,
    number: int,
    case: Case,
    deadline_s: float | None,
    on_event: Callable[[Record], None] = lambda _record: None,
) -> Record:
    """Run one request to its end, or give up some time after its deadline if it has one."""
    loop = asyncio.get_running_loop()
    record = Record(number, case, loop.time(), deadline_s)
    options = replace(case.options, timeout_s=deadline_s)
    try:
        async with asyncio.timeout(None if deadline_s is None else deadline_s + PATIENCE_S):
            async with contextlib.aclosing(client.generate(case.prompt, options)) as events:
                async for event in events:
                    record.see(event, loop.time())
                    on_event(record)
        record.end = "finished"
    except TimeoutError:
        record.end = "late"
    except RequestFailedError as error:
        record.end, record.code, record.reason = "failed", error.code, str(error)
    record.ended_at_s = loop.time()
    return record


class Load:
    """Streams that each send one request after another, until `stop` or as many as num_requests.

    num_requests: of all streams together; None for no limit.
    """

    def __init__(self, ask: Ask, num_streams: int, num_requests: int | None = None) -> None:
        self._ask = ask
        self._num_streams = num_streams
        self._numbers = itertools.count() if num_requests is None else iter(range(num_requests))
        self._is_over = False
        # Called when all requests have ended.
        self.on_done: Callable[[], None] = lambda: None

    def stop(self) -> None:
        """Start no new requests; those under way run to their ends."""
        self._is_over = True

    async def run(self) -> None:
        """Return when all requests have ended."""
        async with asyncio.TaskGroup() as group:
            for stream in range(self._num_streams):
                group.create_task(self._stream(stream))
        self.on_done()

    async def _stream(self, stream: int) -> None:
        while not self._is_over and (number := next(self._numbers, None)) is not None:
            if not await self._ask(stream, number):
                await asyncio.sleep(_PAUSE_S)
