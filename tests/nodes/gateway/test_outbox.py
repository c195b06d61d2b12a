from __future__ import annotations

import asyncio

import pytest

from nodes.gateway.errors import ApiError, unavailable
from nodes.gateway.exchange import Outbox, SlowReaderError


async def everything(outbox: Outbox) -> list[bytes]:
    parts = []
    while part := await outbox.take():
        parts.append(part)
    return parts


async def test_what_came_meanwhile_goes_together_in_small_writes() -> None:
    outbox = Outbox(100_000)
    for _ in range(3):
        outbox.put(b"x" * 10_000)
    outbox.close()
    parts = await everything(outbox)
    assert [len(part) for part in parts] == [16_384, 30_000 - 16_384]


async def test_a_reader_waits_for_what_is_put() -> None:
    outbox = Outbox(100)
    taking = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    assert not taking.done()
    outbox.put(b"a")
    assert await taking == b"a"
    taking = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    outbox.close()
    assert await taking == b""


async def test_too_much_is_dropped_and_nothing_more_is_sent() -> None:
    outbox = Outbox(100)
    outbox.put(b"x" * 60)
    outbox.put(b"x" * 60)
    with pytest.raises(SlowReaderError):
        outbox.put(b"x" * 60)
    assert outbox.was_dropped
    assert await outbox.take() == b""


async def test_one_large_event_is_not_too_much() -> None:
    outbox = Outbox(100)
    outbox.put(b"x" * 50_000)
    outbox.put(b"x" * 100)
    outbox.close()
    assert sum(map(len, await everything(outbox))) == 50_100


async def test_a_failure_is_a_status_before_the_first_byte_and_an_event_after_it() -> None:
    outbox = Outbox(100)
    outbox.fail(unavailable("gone"), b"event")
    with pytest.raises(ApiError, match="gone"):
        await outbox.take()
    outbox = Outbox(100)
    outbox.put(b"a")
    outbox.fail(unavailable("gone"), b"event")
    (part,) = await everything(outbox)
    assert part == b"aevent"
