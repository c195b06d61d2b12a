"""Run concurrent streams through real clients, and hand over each request when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from random import Random
from typing import cast

from bench.chaos.cases import Case
from bench.chaos.history import Record
from nodes.client.client import Client, Event, RequestFailedError

# Wait this long after a deadline, to tell requests that end too late from those that never end.
_PATIENCE_S = 3.0
# Pause between a request that failed and the next, so that refused streams do not flood the mesh.
_PAUSE_S = 0.05


async def ask(client: Client, number: int, case: Case, deadline_s: float) -> Record:
    """Run one request to its end, or give up _PATIENCE_S after its deadline."""
    loop = asyncio.get_running_loop()
    record = Record(number, case, loop.time(), deadline_s)
    options = replace(case.options, timeout_s=deadline_s)
    try:
        async with asyncio.timeout(deadline_s + _PATIENCE_S):
            events = client.generate(case.prompt, options)
            async with contextlib.aclosing(cast(AsyncGenerator[Event, None], events)):
                async for event in events:
                    record.see(event, loop.time())
        record.end = "finished"
    except TimeoutError:
        record.end = "late"
    except RequestFailedError as error:
        record.end, record.code, record.reason = "failed", error.code, str(error)
    record.ended_at_s = loop.time()
    return record


class Load:
    """Streams that each send one request after another, drawn from `cases`, until `stop`.

    on_end: called with the record of each request. num_requests: total limit, None for none.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        cases: Sequence[Case],
        random: Random,
        *,
        num_streams: int,
        deadline_s: float,
        on_end: Callable[[Record], None],
        num_requests: int | None = None,
    ) -> None:
        self._clients = clients
        self._cases = cases
        self._random = random
        self._num_streams = num_streams
        self._deadline_s = deadline_s
        self._on_end = on_end
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
                group.create_task(self._stream(self._clients[stream % len(self._clients)]))
        self.on_done()

    async def _stream(self, client: Client) -> None:
        while not self._is_over:
            number = next(self._numbers, None)
            if number is None:
                return
            case = self._random.choice(self._cases)
            record = await ask(client, number, case, self._deadline_s)
            self._on_end(record)
            if record.end != "finished":
                await asyncio.sleep(_PAUSE_S)
