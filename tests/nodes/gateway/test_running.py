from __future__ import annotations

import asyncio
import contextlib

import pytest

from nodes.gateway.errors import ApiError, unavailable
from nodes.gateway.running import Running


async def test_a_key_has_only_so_many_at_a_time() -> None:
    running = Running(3)
    with contextlib.ExitStack() as stack:
        for index in range(2):
            stack.enter_context(running.entered(f"a{index}", "a", 2))
        with pytest.raises(ApiError, match="of this key") as caught, running.entered("x", "a", 2):
            pass
        assert (caught.value.status, caught.value.retry_after_s) == (429, 1)
        stack.enter_context(running.entered("b", "b", 2))
        with (
            pytest.raises(ApiError, match="3 requests are under way"),
            running.entered("x", "c", 2),
        ):
            pass
    assert len(running) == 0
    with running.entered("x", "a", 1):
        pass


async def test_a_request_is_cancelled_by_its_key_only() -> None:
    running = Running(3)
    with running.entered("a", "one", 2) as run:
        task = asyncio.create_task(asyncio.Event().wait())
        run.attach(task)  # type: ignore[arg-type]
        assert not running.cancel("a", "two")
        assert not running.cancel("b", "one")
        assert running.cancel("a", "one")
        assert running.cancel("a", None)
        await asyncio.wait({task})
        assert task.cancelled()
        assert run.ended_by is not None
        assert run.ended_by.status == 410
    assert not running.cancel("a", "one")


async def test_a_request_may_get_another_id() -> None:
    running = Running(3)
    with running.entered("drawn", "one", 2) as run:
        running.rename(run, "derived")
        assert not running.cancel("drawn", "one")
        assert running.cancel("derived", "one")
        assert len(running) == 1
    assert len(running) == 0
    with running.entered("derived", "one", 2):
        pass


async def test_what_was_ended_before_it_began_does_not_begin() -> None:
    running = Running(3)
    with running.entered("a", "one", 2) as run:
        running.cancel("a", "one")
        task = asyncio.create_task(asyncio.Event().wait())
        run.attach(task)  # type: ignore[arg-type]
        await asyncio.wait({task})
        assert task.cancelled()


async def test_stopping_waits_and_then_ends_what_is_left() -> None:
    running = Running(3)
    running.check_open()
    running.refuse_new(unavailable("stopping"))
    with pytest.raises(ApiError, match="stopping"), running.entered("a", "one", 2):
        pass
    with pytest.raises(ApiError, match="stopping"):
        running.check_open()
    await running.until_idle(0.0)
    running = Running(3)
    with running.entered("a", "one", 2) as run:
        task = asyncio.create_task(asyncio.Event().wait())
        run.attach(task)  # type: ignore[arg-type]
        running.refuse_new(unavailable("stopping"))
        await running.until_idle(0.01)
        await asyncio.wait({task})
        assert run.ended_by is not None
        assert run.ended_by.status == 503
