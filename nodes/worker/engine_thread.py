"""The thread that owns the engine: it takes commands and delivers events on the event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar


class Worker(Protocol):
    """A pure state around an engine: TargetState or DraftState.

    If a subclass does not say otherwise, each pass begins at once, and its time is not noted.
    """

    def has_work(self) -> bool: ...

    def schedule_pass(self, now: float) -> float:
        """Set the time of the next pass. Returns the seconds that it may wait for a command, 0.0 if
        it begins at once; after them this is called again."""
        return 0.0

    def step(self) -> Sequence[object]: ...

    def passed(self, seconds: float, now: float) -> None:
        """Note that a pass has ended at `now`, after `seconds`."""
        return


W = TypeVar("W", bound=Worker)
# A command that causes no events may return None.
Command = Callable[[W], Sequence[object] | None]


class EngineThread(Generic[W]):
    """Runs a worker's passes one after the other, and commands between them.

    It is made on the event loop. deliver: called there with the events of a command or pass, and
    its seconds.
    """

    def __init__(self, worker: W, deliver: Callable[[Sequence[object], float], None]) -> None:
        self._worker = worker
        self._deliver = deliver
        self._commands: queue.SimpleQueue[Command[W] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.num_passes = 0
        # When the current command or pass began; None while the thread waits.
        self._began_at: float | None = None
        # The number of post_anew() calls, and how many of them the thread has reached.
        self._era = 0
        self._era_reached = 0

    def post(self, command: Command[W]) -> None:
        self._commands.put(command)

    def is_stuck(self, limit_s: float) -> bool:
        """Whether the current command or pass has taken longer than limit_s; for the event loop."""
        began_at = self._began_at
        return began_at is not None and self._loop.time() - began_at > limit_s

    def post_anew(self, command: Command[W]) -> None:
        """Post a command and discard all events of earlier commands and passes."""
        self._era += 1
        era = self._era

        def begin(worker: W) -> Sequence[object] | None:
            self._era_reached = era
            return command(worker)

        self._commands.put(begin)

    async def run(self) -> None:
        """Serve until cancelled; raises what the engine raised. Joins the thread at the end.

        The events of the last pass are delivered before this returns.
        """
        self._thread.start()
        try:
            await asyncio.shield(self._ended)
        finally:
            self._commands.put(None)
            # A pass cannot be interrupted, but it is short.
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            while self._serve_once():
                pass
        except BaseException as error:  # noqa: BLE001 - handed to run(), which raises it
            self._call_loop(self._end, error)
        else:
            self._call_loop(self._end)

    def _serve_once(self) -> bool:
        """Apply one command, or run a pass if none waits. Returns False once run() is to stop."""
        may_run = self._worker.has_work()
        self._began_at = None
        try:
            command = self._commands.get(timeout=self._schedule_pass() if may_run else None)
        except queue.Empty:
            # The wait is over, but another one may follow.
            if not self._schedule_pass():
                self._pass()
            return True
        if command is None:
            return False
        self._began_at = self._loop.time()
        self._hand_over(command(self._worker) or (), 0.0)
        return True

    def _schedule_pass(self) -> float:
        return self._worker.schedule_pass(self._loop.time())

    def _pass(self) -> None:
        self._began_at = start = self._loop.time()
        events = self._worker.step()
        self.num_passes += 1
        now = self._loop.time()
        self._worker.passed(now - start, now)
        self._hand_over(events, now - start)

    def _hand_over(self, events: Sequence[object], seconds: float) -> None:
        # A pass may have no events, but its seconds count.
        if events or seconds:
            self._call_loop(self._deliver_of, self._era_reached, events, seconds)

    def _deliver_of(self, era: int, events: Sequence[object], seconds: float) -> None:
        """Deliver events unless a later era has begun."""
        if era != self._era:
            return
        try:
            self._deliver(events, seconds)
        except Exception as error:  # noqa: BLE001 - handed to run(), which raises it
            # The event loop would only log an error of its callback. The events would be lost, and
            # their receivers would wait for ever.
            self._end(error)

    def _call_loop(self, function: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            # The loop is closed, because the process is ending.
            self._commands.put(None)

    def _end(self, error: BaseException | None = None) -> None:
        if self._ended.done():
            return
        if error is not None:
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)
