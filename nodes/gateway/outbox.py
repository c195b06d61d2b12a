"""A bounded buffer between the mesh and a stream's reader, so that the mesh never waits."""

from __future__ import annotations

import asyncio
from typing import Final

from nodes.gateway.errors import ApiError

# A write is small compared with the bound, so that the transport buffers little.
_WRITE_BYTES: Final = 16_384


class SlowReaderError(Exception):
    """The reader is slower than the stream, and the outbox is full."""


class Outbox:
    """One task fills it, another empties it. max_bytes: the bound, on top of the largest event."""

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
        """Add an event. Raises SlowReaderError if too much waits; the rest is dropped then."""
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
        """End with an error: as a status, or as this event if the stream has begun."""
        if not self.has_begun:
            self._failure = error
        else:
            self._parts += event
        self.close()

    def close(self) -> None:
        self._is_closed = True
        self._ready.set()

    async def take(self) -> bytes:
        """Wait for bytes to send; b"" at the end. Raises ApiError on a failure before any byte."""
        await self._ready.wait()
        if self._failure is not None:
            raise self._failure
        taken = bytes(self._parts[:_WRITE_BYTES])
        del self._parts[:_WRITE_BYTES]
        if not self._parts and not self._is_closed:
            self._ready.clear()
        return taken
