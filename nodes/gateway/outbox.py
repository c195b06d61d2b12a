"""What waits to be sent to the reader of a stream: bounded, and never waited for by the mesh."""

from __future__ import annotations

import asyncio
from typing import Final

from nodes.gateway.errors import ApiError

# One write is small beside the bound, so that the transport, too, holds little.
_WRITE_BYTES: Final = 16_384


class SlowReaderError(Exception):
    """The reader takes less than comes; it is not waited for."""


class Outbox:
    """Filled by one task, emptied by another. max_bytes: beside the largest single event."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts = bytearray()
        self._largest = 0
        self._ready = asyncio.Event()
        self._is_closed = False
        self._failure: ApiError | None = None
        self.has_begun = False
        self.was_dropped = False

    def put(self, event: bytes) -> None:
        """Raises SlowReaderError when too much waits; nothing more is sent then."""
        self.has_begun = True
        self._largest = max(self._largest, len(event))
        if len(self._parts) + len(event) > self._max_bytes + self._largest:
            self._parts.clear()
            self.was_dropped = True
            self.close()
            raise SlowReaderError
        self._parts += event
        self._ready.set()

    def fail(self, error: ApiError, event: bytes) -> None:
        """End with an error: as a status, or as this event where something was sent already."""
        if not self.has_begun:
            self._failure = error
        else:
            self._parts += event
        self.close()

    def close(self) -> None:
        self._is_closed = True
        self._ready.set()

    async def take(self) -> bytes:
        """Something to send, b"" at the end. Raises ApiError if it failed before any of it."""
        await self._ready.wait()
        if self._failure is not None:
            raise self._failure
        taken = bytes(self._parts[:_WRITE_BYTES])
        del self._parts[:_WRITE_BYTES]
        if not self._parts and not self._is_closed:
            self._ready.clear()
        return taken
