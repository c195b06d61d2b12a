from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from airdraft.nodes.worker.engine_thread import EngineThread

Eventually = Callable[..., "asyncio.Future[None]"]


class Counter:
    """A worker that counts down what it was given.

    waits_s: how long it waits while one thing is left to do, one wait after the other. ended: the
    seconds of its passes.
    """

    def __init__(self, *waits_s: float) -> None:
        self.waits_s = list(waits_s)
        self.ended: list[float] = []
        self._until = 0.0
        self.left = 0
        self.threads: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()

    def has_work(self) -> bool:
        return self.left > 0

    def step(self) -> Sequence[object]:
        self.threads.add(threading.current_thread().name)
        self.gate.wait()
        self.left -= 1
        return [f"{self.left} left"]

    def schedule_pass(self, now: float) -> float:
        if self.left != 1:
            return 0.0
        if now >= self._until and self.waits_s:
            self._until = now + self.waits_s.pop(0)
        return max(0.0, self._until - now)

    def passed(self, seconds: float, now: float) -> None:
        assert now >= seconds >= 0.0
        self.ended.append(seconds)

    def add(self, count: int) -> Sequence[object]:
        self.left += count
        return [f"added {count}"]

    def add_quietly(self, count: int) -> None:
        self.left += count


class Running:
    """An engine thread, its worker and what it delivered."""

    def __init__(self, *waits_s: float) -> None:
        self.worker = Counter(*waits_s)
        self.events: list[object] = []
        self.threads: set[str] = set()
        self.engine = EngineThread(self.worker, self._deliver)
        self.task = asyncio.create_task(self.engine.run())

    def _deliver(self, events: Sequence[object], seconds: float) -> None:
        assert seconds >= 0.0
        self.threads.add(threading.current_thread().name)
        self.events += events

    def add(self, count: int) -> None:
        self.engine.post(lambda worker: worker.add(count))


@contextlib.asynccontextmanager
async def running(*waits_s: float) -> AsyncIterator[Running]:
    thread = Running(*waits_s)
    try:
        yield thread
    finally:
        thread.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await thread.task


@contextlib.asynccontextmanager
async def in_a_pass(eventually: Eventually, count: int = 1) -> AsyncIterator[Running]:
    """A thread whose first pass does not end before its gate is opened."""
    async with running() as thread:
        thread.worker.gate.clear()
        thread.add(count)
        await eventually(lambda: thread.worker.threads)
        try:
            yield thread
        finally:
            thread.worker.gate.set()


async def test_commands_and_passes_run_in_the_thread_and_events_come_on_the_loop(
    eventually: Eventually,
) -> None:
    async with running() as thread:
        thread.add(2)
        await eventually(lambda: thread.events == ["added 2", "1 left", "0 left"])
        assert thread.worker.threads == {"engine"}
        assert thread.threads == {threading.current_thread().name}
        assert thread.engine.num_passes == 2


async def test_commands_come_in_between_passes(eventually: Eventually) -> None:
    async with in_a_pass(eventually) as thread:
        thread.add(3)
        thread.add(5)
        thread.worker.gate.set()
        await eventually(lambda: thread.events[-1:] == ["0 left"])
        assert thread.events[:4] == ["added 1", "0 left", "added 3", "added 5"]


@pytest.mark.parametrize("with_events", [False, True])
async def test_a_pass_waits_for_another_command_as_long_as_it_has_patience(
    eventually: Eventually, with_events: bool
) -> None:
    # What waits does not keep it from ending.
    async with running(60.0) as thread:
        thread.engine.post(lambda worker: worker.add_quietly(1))
        await eventually(lambda: thread.worker.left == 1)
        await asyncio.sleep(0.05)
        assert thread.engine.num_passes == 0
        assert not thread.engine.is_stuck(0.0)
        if with_events:
            # They are told at once, and the pass goes on waiting.
            thread.add(0)
            await eventually(lambda: thread.events == ["added 0"])
            assert thread.engine.num_passes == 0
        thread.engine.post(lambda worker: worker.add_quietly(1))
        await eventually(lambda: bool(thread.worker.ended))
        await eventually(lambda: thread.events[-1] == "1 left")
        assert thread.worker.left == 1


@pytest.mark.parametrize("waits_s", [(0.05,), (0.02, 0.02, 0.02)])
async def test_a_pass_begins_when_its_patience_is_over(
    eventually: Eventually, waits_s: tuple[float, ...]
) -> None:
    """There may be something else to wait for by then."""
    async with running(*waits_s) as thread:
        thread.engine.post(lambda worker: worker.add_quietly(1))
        await eventually(lambda: thread.events == ["0 left"])
        assert thread.worker.waits_s == []


def fail(_worker: Counter) -> Sequence[object]:
    raise ValueError("broken")


async def test_what_the_engine_raises_ends_run() -> None:
    thread = Running()
    thread.engine.post(fail)
    with pytest.raises(ValueError, match="broken"):
        await thread.task


async def test_cancelling_waits_for_the_pass_under_way_and_what_it_did_is_told(
    eventually: Eventually,
) -> None:
    async with in_a_pass(eventually, 5) as thread:
        thread.task.cancel()
        await asyncio.sleep(0)
        thread.add(100)
        thread.worker.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await thread.task
        # Nothing that came later.
        assert thread.events == ["added 5", "4 left"]


async def test_what_was_done_before_a_new_beginning_is_not_told(eventually: Eventually) -> None:
    async with in_a_pass(eventually) as thread:
        await eventually(lambda: thread.events == ["added 1"])
        thread.events.clear()
        thread.add(3)
        thread.engine.post_anew(lambda _worker: ["anew"])
        thread.engine.post(lambda _worker: ["after"])
        thread.worker.gate.set()
        await eventually(lambda: thread.events[-1:] == ["0 left"])
        assert thread.events == ["anew", "after", "2 left", "1 left", "0 left"]


async def test_an_engine_that_is_at_one_thing_for_long_is_stuck(eventually: Eventually) -> None:
    async with in_a_pass(eventually) as thread:
        await eventually(lambda: thread.engine.is_stuck(0.01))
        assert not thread.engine.is_stuck(60.0)
        thread.worker.gate.set()
        await eventually(lambda: not thread.engine.is_stuck(0.0))


async def test_events_that_cannot_be_told_end_run() -> None:
    def deliver(_events: Sequence[object], _seconds: float) -> None:
        raise OSError("nobody to tell")

    engine = EngineThread(Counter(), deliver)
    engine.post(lambda worker: worker.add(1))
    with pytest.raises(OSError, match="nobody to tell"):
        await engine.run()
