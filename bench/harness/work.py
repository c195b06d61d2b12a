"""Streams that send one request after another, and requests through real clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from http import HTTPStatus
from typing import TypeVar

import httpx

from airdraft.nodes.client.client import MeshClient, RequestFailedError
from bench.harness.cases import Case
from bench.harness.history import Record

T = TypeVar("T")
# Sends a request, given the numbers of stream and request; returns whether it finished.
Ask = Callable[[int, int], Awaitable[bool]]
# Wait this long after a deadline, to tell requests that end too late from those that never end.
PATIENCE_S = 3.0
# Pause between a request that failed and the next, so that refused streams do not flood the mesh.
_PAUSE_S = 0.05
# Pause before a request is sent again that may work later.
_AGAIN_S = 0.1


async def ask(
    client: MeshClient,
    number: int,
    case: Case,
    deadline_s: float | None,
    on_event: Callable[[Record], None] = lambda _record: None,
) -> Record:
    """Run one request to its end, or give up some time after its deadline if it has one."""
    now = asyncio.get_running_loop().time
    record = Record(number, case, now(), deadline_s)
    options = replace(case.options, timeout_s=deadline_s)
    async with (
        until_end(record, None if deadline_s is None else deadline_s + PATIENCE_S),
        contextlib.aclosing(client.generate(case.prompt, options)) as events,
    ):
        async for event in events:
            record.see(event, now())
            on_event(record)
    return record


@contextlib.asynccontextmanager
async def until_end(record: Record, limit_s: float | None) -> AsyncIterator[None]:
    """Note how and when a request ends, which the block sends and reads."""
    try:
        async with asyncio.timeout(limit_s):
            yield
        record.end = "finished"
    except TimeoutError:
        record.end = "late"
    except RequestFailedError as error:
        record.end, record.code, record.reason = "failed", error.code, str(error)
    record.ended_at_s = asyncio.get_running_loop().time()


async def keep_asking(ask: Ask, num_streams: int, numbers: Iterator[int]) -> None:
    """Run streams that each send one request after another, until the numbers are used up."""

    async def keep(stream: int) -> None:
        for number in numbers:
            if not await ask(stream, number):
                await asyncio.sleep(_PAUSE_S)

    async with asyncio.TaskGroup() as group:
        for stream in range(num_streams):
            group.create_task(keep(stream))


async def answered(
    ask_once: Callable[[], Awaitable[T]], has_lost_coordinator: Callable[[], bool]
) -> T:
    """Ask, and ask again as long as there is no answer, or the answer is that it may work later.

    That is right where a member has lost its coordinator. In a mesh that nothing has disturbed it
    is an error, which is raised.
    """
    while True:
        try:
            return await ask_once()
        except (RequestFailedError, httpx.HTTPStatusError, TimeoutError) as error:
            if not (_may_pass(error) and has_lost_coordinator()):
                raise
        await asyncio.sleep(_AGAIN_S)


def _may_pass(error: RequestFailedError | httpx.HTTPStatusError | TimeoutError) -> bool:
    if isinstance(error, RequestFailedError):
        return error.code in ("unavailable", "deadline")
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    return True
