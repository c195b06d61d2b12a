"""Bounds the memory of what has arrived over connections and was not read. Linux only.

ZeroMQ collects all frames of a message in memory before it hands out the first one, and has no
limit for their number. Its limit for waiting messages counts messages and not bytes. So the bytes
that the kernel has received over each connection are compared with those that were read from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

# What ZeroMQ (9 bytes at most) and CURVE (33) add to a frame, and some more: with too few bytes,
# connections would seem to fall behind.
FRAME_BYTES: Final = 64
# A client may have 64 requests of 1 MiB under way, and the process is allowed 1 GiB by its unit.
MOST_UNREAD_BYTES: Final = 192 << 20
# How long a key gets no new connection after one of it was cut.
BARRED_S: Final = 60.0


@dataclass(slots=True)
class _Connection:
    """num_read: bytes that were read, overestimated. least: the lowest difference so far between
    received and read bytes, which is taken to be that of a connection of which all was read."""

    num_read: int = 0
    least: int = 0


class Unread:
    """Counts what was read over each connection, by descriptor.

    received: returns the bytes that the kernel has received over a descriptor, None if it is no TCP
    connection.
    """

    def __init__(
        self, received: Callable[[int], int | None], most_bytes: int = MOST_UNREAD_BYTES
    ) -> None:
        self._received = received
        self._most_bytes = most_bytes
        self._connections: dict[int, _Connection] = {}
        self._was_over = False

    def __len__(self) -> int:
        return len(self._connections)

    def opened(self, fd: int) -> None:
        self._connections[fd] = _Connection()

    def closed(self, fd: int) -> None:
        self._connections.pop(fd, None)

    def note_read(self, fd: int, frames: Iterable[int]) -> None:
        """Note a message; frames: the bytes of each frame."""
        if (connection := self._connections.get(fd)) is not None:
            connection.num_read += sum(num_bytes + FRAME_BYTES for num_bytes in frames)

    def find_furthest(self) -> int | None:
        """Returns the descriptor with the most unread bytes, if all have too many together.

        They must have had too many at the call before as well: after a pause of this process much
        is unread for a moment.
        """
        total, furthest, most = 0, None, 0
        for fd, connection in list(self._connections.items()):
            if (received := self._received(fd)) is None:
                del self._connections[fd]
                continue
            difference = received - connection.num_read
            connection.least = min(connection.least, difference)
            ahead = difference - connection.least
            total += ahead
            if ahead > most:
                furthest, most = fd, ahead
        was_over, self._was_over = self._was_over, total > self._most_bytes
        return furthest if was_over and self._was_over else None


class BarredKeys:
    """Keys that get no new connection for a while. Any thread may ask."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def add(self, key: str) -> None:
        now = self._clock()
        left = {each: until for each, until in self._until.items() if until > now}
        self._until = {**left, key: now + BARRED_S}

    def __contains__(self, key: str) -> bool:
        return self._until.get(key, 0.0) > self._clock()
