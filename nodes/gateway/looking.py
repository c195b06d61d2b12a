"""The status of the mesh, shared by all pages and scrapes, and its history of the last minutes."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from typing import Final

from nodes.client.client import RequestFailedError
from nodes.gateway.models import Mesh
from nodes.telemetry.history import History
from nodes.telemetry.status import Status, encode_status

_MAX_AGE_S: Final = 1.0
_ASK_LIMIT_S: Final = 2.0


class Looking:
    """Fetches the status at most once a second, however many clients want it, and only on demand.

    The history has one point for each status.
    """

    def __init__(self, mesh: Mesh, clock: Callable[[], float] = time.monotonic) -> None:
        self._mesh = mesh
        self._clock = clock
        self._asking: asyncio.Task[Status] | None = None
        self._known: Status | None = None
        self._known_at = -math.inf
        self._document = b""
        self.history = History()

    async def status(self) -> Status:
        """A status at most a second old. Raises RequestFailedError without a coordinator."""
        if not self._mesh.is_joined:
            # The next coordinator has a status of its own.
            self._known = None
            raise RequestFailedError("unavailable", "the coordinator cannot be reached")
        if self._known is not None and self._clock() - self._known_at < _MAX_AGE_S:
            return self._known
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
            self._asking.add_done_callback(self._asked)
        # A caller that is cancelled must not cancel the request that others wait for.
        return await asyncio.shield(self._asking)

    async def document(self, gateway: dict[str, object]) -> bytes:
        """JSON for the page: status, history and `gateway`, the gateway's own figures."""
        await self.status()
        points = [[p.at_s, p.tokens_per_s, p.acceptance] for p in self.history]
        own = json.dumps({"gateway": gateway, "history": points}, separators=(",", ":"))
        return b'{"status":' + self._document + b"," + own.encode()[1:]

    def _asked(self, asking: asyncio.Task[Status]) -> None:
        self._asking = None
        if not asking.cancelled():
            # Mark the exception as retrieved, even if every caller has left.
            asking.exception()

    async def _ask(self) -> Status:
        try:
            async with asyncio.timeout(_ASK_LIMIT_S):
                status = await self._mesh.status()
        except TimeoutError:
            raise RequestFailedError("unavailable", "the coordinator does not answer") from None
        self._known, self._known_at = status, self._clock()
        self._document = encode_status(status)
        self.history.add(status)
        return status

    async def stop(self) -> None:
        """Cancel the request under way."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
