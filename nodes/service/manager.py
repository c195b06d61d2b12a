"""What a role tells the service manager while it starts, serves and stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping

from nodes.service.notify import Notifier

logger = logging.getLogger(__name__)

# Between two looks at whether a process that starts is ready.
_POLL_S = 0.1
# What is asked for while it starts, again and again.
_STEP_S = 30.0
_LONGEST_S = 3600.0
_STOP_MARGIN_S = 5.0


class Manager:
    """systemd, where it started this process; else nobody."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._notifier = Notifier(environ)

    @contextlib.asynccontextmanager
    async def patient(self, doing: str) -> AsyncIterator[None]:
        """Ask for time while something lasts that takes as long as it takes, an hour at most."""
        asking = asyncio.create_task(self._ask_for_time(doing))
        try:
            yield
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _ask_for_time(self, doing: str) -> None:
        self._notifier.status(doing)
        if not self._notifier.is_on:
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + _LONGEST_S
        while loop.time() < until:
            self._notifier.extend(_STEP_S)
            await asyncio.sleep(_STEP_S / 3)

    @contextlib.asynccontextmanager
    async def attending(
        self, is_ready: Callable[[], bool], is_well: Callable[[float], bool] = lambda _limit_s: True
    ) -> AsyncIterator[None]:
        """attend() beside the block. Should it fail, the log says why nobody is told any more."""
        task = asyncio.create_task(self.attend(is_ready, is_well))
        try:
            yield
        finally:
            task.cancel()
            (error,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(error, Exception):
                logger.error("the service manager was not told how it goes", exc_info=error)

    async def attend(
        self, is_ready: Callable[[], bool], is_well: Callable[[float], bool] = lambda _limit_s: True
    ) -> None:
        """Say ready once it is, then within each period of the watchdog that all is well.

        is_well: whether nothing has been stuck for more than so many seconds. Returns at once where
        nobody listens; the event loop that this runs on is what else is watched.
        """
        notifier = self._notifier
        if not notifier.is_on:
            return
        async with self.patient("joining the mesh"):
            is_there = is_ready()
            while not is_there:
                await asyncio.sleep(_POLL_S)
                is_there = is_ready()
        notifier.ready()
        notifier.status("serving")
        # Half the period for what is watched, and half for the next ping to be missed.
        half_s = notifier.watchdog_s / 2
        while half_s:
            if is_well(half_s):
                notifier.alive()
            await asyncio.sleep(half_s / 2)

    def stopping(self, limit_s: float) -> None:
        """The process has been told to end; its own limit comes before the manager's."""
        self._notifier.stopping()
        self._notifier.extend(limit_s + _STOP_MARGIN_S)
