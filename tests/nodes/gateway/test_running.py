"""Requests under way: how many there may be, and how one is ended from outside."""

import asyncio
import contextlib

import pytest

from airdraft.nodes.gateway.errors import ApiError
from airdraft.nodes.gateway.running import Running


async def test_there_are_only_so_many_of_a_key_and_of_all() -> None:
    running = Running(3)
    with contextlib.ExitStack() as stack:
        for request_id, key, refused in (
            ("a0", "a", ""),
            ("a1", "a", ""),
            ("a2", "a", "of this key"),
            ("b", "b", ""),
            ("c", "c", "3 requests are under way"),
        ):
            entering = running.entered(request_id, key, 2)
            if not refused:
                stack.enter_context(entering)
                continue
            with pytest.raises(ApiError, match=refused) as caught:
                stack.enter_context(entering)
            assert (caught.value.status, caught.value.retry_after_s) == (429, 1)
    assert len(running) == 0
    with running.entered("x", "a", 1):
        pass


async def test_a_request_is_cancelled_by_its_key_only_whatever_its_id_has_become() -> None:
    running = Running(3)
    with running.entered("drawn", "one", 2) as run:
        run.request_id = "derived"
        assert not running.cancel("derived", "two")
        assert not running.cancel("drawn", "one")
        assert running.cancel("derived", None)
        # What was ended before it began does not begin.
        task = asyncio.create_task(asyncio.Event().wait())
        run.attach(task)
        await asyncio.wait({task})
        assert task.cancelled()
        assert run.ended_by is not None
        assert run.ended_by.status == 410
    assert not running.cancel("derived", "one")
