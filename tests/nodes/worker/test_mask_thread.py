"""The thread of masks: owners take turns, and waiting for it has a limit."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from airdraft.nodes.engine.masks import GrammarText
from airdraft.nodes.worker.mask_thread import MaskThread

LIMIT_S = 60.0


class Text:
    """Its mask is computed when `may_end` is set."""

    def __init__(self, owner: str, done: list[str], name: str, *, is_held: bool = False) -> None:
        self.owner = owner
        self.is_settled = self.is_apart = False
        self.has_begun, self.may_end = threading.Event(), threading.Event()
        self._done, self._name = done, name
        if not is_held:
            self.may_end.set()

    def compute(self) -> None:
        self.has_begun.set()
        assert self.may_end.wait(LIMIT_S)
        if self._name == "broken":
            raise MemoryError("no memory")
        self._done.append(self._name)
        self.is_settled = True


def as_text(text: Text) -> GrammarText:
    return cast(GrammarText, text)


@contextlib.asynccontextmanager
async def running(masks: MaskThread) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(masks.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, MemoryError):
            await task


async def begun(text: Text) -> None:
    assert await asyncio.to_thread(text.has_begun.wait, LIMIT_S)


async def test_owners_take_turns_and_ended_streams_take_none() -> None:
    done: list[str] = []
    masks = MaskThread(lambda: None)
    texts = {name: Text(name[0], done, name) for name in ("a2", "a3", "a4", "b1")}
    first = Text("a", done, "a1", is_held=True)
    async with running(masks):
        masks.ask(as_text(first))
        await begun(first)
        for text in texts.values():
            masks.ask(as_text(text))
        del text, texts["a2"]
        first.may_end.set()
        waiting: list[Any] = list(texts.values())
        await asyncio.to_thread(masks.settle, waiting, LIMIT_S)
    assert done == ["a1", "a3", "b1", "a4"] or done == ["a1", "b1", "a3", "a4"]
    assert masks.num_computed == 4


async def test_a_text_that_is_apart_delays_no_others_also_if_it_became_so_while_it_waited() -> None:
    done: list[str] = []
    masks = MaskThread(lambda: None)
    first, leaving, other = (Text("a", done, name, is_held=True) for name in ("1", "2", "3"))
    async with running(masks):
        masks.ask(as_text(first))
        await begun(first)
        masks.ask(as_text(leaving))
        masks.ask(as_text(other))
        leaving.is_apart = True
        first.may_end.set()
        await begun(leaving)
        await begun(other)
        other.may_end.set()
        await asyncio.to_thread(masks.settle, [as_text(other)], LIMIT_S)
        assert done == ["1", "3"]
        leaving.may_end.set()
        await asyncio.to_thread(masks.settle, [as_text(leaving)], LIMIT_S)
    assert done == ["1", "3", "2"]


async def test_who_waits_for_a_mask_that_does_not_come_goes_on_without_it() -> None:
    masks = MaskThread(lambda: None)
    held = Text("a", [], "held", is_held=True)
    async with running(masks):
        masks.ask(as_text(held))
        await begun(held)
        await asyncio.to_thread(masks.settle, [as_text(held)], 0.001)
        assert not held.is_settled
        held.may_end.set()
        await asyncio.to_thread(masks.settle, [as_text(held)], LIMIT_S)
        assert held.is_settled


async def test_a_fault_on_the_thread_ends_the_node() -> None:
    masks = MaskThread(lambda: None)
    broken = Text("a", [], "broken")
    async with running(masks) as task:
        masks.ask(as_text(broken))
        with pytest.raises(MemoryError):
            await asyncio.wait_for(asyncio.shield(task), LIMIT_S)
