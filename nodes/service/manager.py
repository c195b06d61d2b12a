"""Reports to the service manager while a role starts, serves and stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping

from nodes.service.notify import Notifier

logger = logging.getLogger(__name__)

# The time between two checks whether a starting process is ready.
_POLL_S = 0.1
# The extension of the timeout that a starting process requests repeatedly.
_STEP_S = 30.0
_LONGEST_S = 3600.0
_STOP_MARGIN_S = 5.0


class Manager:
    """The service manager that started this process, if there is one; otherwise does nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._notifier = Notifier(environ)

    @contextlib.asynccontextmanager
    async def patient(self, doing: str) -> AsyncIterator[None]:
        """Extend the manager's timeout while the block runs, for an hour at most."""
        extending = asyncio.create_task(self._extend_timeout(doing))
        try:
            yield
        finally:
            extending.cancel()
            await asyncio.gather(extending, return_exceptions=True)

    async def _extend_timeout(self, doing: str) -> None:
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
        """Run attend() beside the block. If it fails, the error is logged when the block ends."""
        task = asyncio.create_task(self.attend(is_ready, is_well))
        try:
            yield
        finally:
            task.cancel()
            (error,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(error, Exception):
                logger.error("the reports to the service manager ended", exc_info=error)

    async def attend(
        self, is_ready: Callable[[], bool], is_well: Callable[[float], bool] = lambda _limit_s: True
    ) -> None:
        """Report readiness, then send a ping in each period of the watchdog while all is well.

        is_well: Whether no work has been stuck for more than the given seconds. Without a manager
        attend() returns at once. A blocked event loop also stops the pings.
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
        # Half of the period is the limit of is_well, and half passes until a ping is missed.
        half_s = notifier.watchdog_s / 2
        while half_s:
            if is_well(half_s):
                notifier.alive()
            await asyncio.sleep(half_s / 2)

    def stopping(self, limit_s: float) -> None:
        """Report that the process stops, and extend the manager's timeout beyond its own limit."""
        self._notifier.stopping()
        self._notifier.extend(limit_s + _STOP_MARGIN_S)
