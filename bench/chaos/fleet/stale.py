"""Sum the counts of stale and dropped messages over all coordinators of a run."""

from __future__ import annotations

import asyncio
import contextlib

from nodes.client.client import Client, RequestFailedError
from nodes.telemetry.status import Status

_EVERY_S = 0.5
_ASK_LIMIT_S = 2.0
_QUIET_LIMIT_S = 120.0


class Stale:
    """Polls the status; counts that a coordinator made after the last poll are lost with it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._counts: dict[str, tuple[int, int]] = {}

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            with contextlib.suppress(RequestFailedError, TimeoutError):
                await self.look()
            await asyncio.sleep(_EVERY_S)

    async def look(self) -> Status:
        """Poll once. Raises RequestFailedError or TimeoutError."""
        async with asyncio.timeout(_ASK_LIMIT_S):
            status = await self._client.status()
        self._counts[status.epoch] = (status.totals.num_stale, status.totals.num_dropped)
        return status

    @property
    def num_stale(self) -> int:
        return sum(stale for stale, _ in self._counts.values())

    @property
    def num_dropped(self) -> int:
        return sum(dropped for _, dropped in self._counts.values())

    async def left_behind(self) -> str:
        """Wait until no stream is left after all requests have ended.

        Returns "" if none is left within the limit, otherwise a description of the rest.
        """
        loop = asyncio.get_running_loop()
        give_up_at, found = loop.time() + _QUIET_LIMIT_S, "no status"
        while found and loop.time() < give_up_at:
            with contextlib.suppress(RequestFailedError, TimeoutError):
                status = await self.look()
                waiting = status.waiting.num_streams + status.waiting.num_tokenizing
                found = f"{status.num_streams} streams, {waiting} waiting"
                if not status.num_streams and not waiting:
                    found = ""
            await asyncio.sleep(_EVERY_S)
        return found
