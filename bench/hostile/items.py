"""Hostile bytes for a gateway: what one connection sends, and how that ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

# Where another answer could follow, so long a silence means that none does.
_SILENCE_S: Final = 0.3
_PART_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What one connection sends. pieces: sent in turn, with a pause before all but the first.

    is_endless: the last piece is sent again until the time is over. is_read: whether answers are
    read. half_closes: whether the end of sending is told.
    """

    name: str
    pieces: tuple[bytes, ...]
    pause_s: float = 0.0
    is_endless: bool = False
    is_read: bool = True
    half_closes: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an item. began, ended: on the machine's monotonic clock.

    end: the status of the first answer, "closed" if there was none, or "left" if neither came
    within the time.
    """

    number: int
    name: str
    began: float
    ended: float
    end: str
    num_sent: int


async def send(number: int, item: Item, port: int, limit_s: float) -> Outcome:
    """Send an item over a connection of its own; hang up after the limit at the latest."""
    return await _Connection(item).run(number, port, limit_s)


async def discard(item: Item, port: int, twin: Outcome) -> None:
    """Send the bytes that its twin sent, in the same time, to a listener that never answers."""
    connection = _Connection(item, twin.num_sent)
    await connection.run(twin.number, port, twin.ended - twin.began)


async def paced(
    numbers: Sequence[int], one: Callable[[int], Awaitable[None]], per_s: float, at_once: int
) -> None:
    """Begin one task for each number, so many a second, while fewer than `at_once` run."""
    places = asyncio.Semaphore(at_once)
    async with asyncio.TaskGroup() as group:

        async def in_place(number: int) -> None:
            try:
                await one(number)
            finally:
                places.release()

        for number in numbers:
            await places.acquire()
            group.create_task(in_place(number))
            await asyncio.sleep(1 / per_s)


class _Connection:
    def __init__(self, item: Item, most_bytes: int | None = None) -> None:
        self._item = item
        self._left = most_bytes
        self._num_sent = 0
        self._end = ""

    async def run(self, number: int, port: int, limit_s: float) -> Outcome:
        now = asyncio.get_running_loop().time
        began = now()
        try:
            async with asyncio.timeout(limit_s):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    await self._talk(reader, writer)
                finally:
                    writer.transport.abort()
        except TimeoutError:
            self._end = self._end or "left"
        except OSError:
            pass
        end = self._end or "closed"
        return Outcome(number, self._item.name, began, now(), end, self._num_sent)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writing = asyncio.create_task(self._write(writer))
        try:
            if not self._item.is_read:
                await writing
                # What is not read stays in buffers until the time is over.
                await asyncio.get_running_loop().create_future()
            heard = b""
            while True:
                is_over = bool(self._end) and writing.done()
                try:
                    async with asyncio.timeout(_SILENCE_S if is_over else None):
                        part = await reader.read(_PART_BYTES)
                except TimeoutError:
                    if is_over:
                        return
                    raise
                if not part:
                    return
                if not self._end:
                    heard += part
                    words = heard.split(b"\r\n", 1)[0].split()
                    self._end = words[1].decode("latin-1") if len(words) > 1 else "answered"
        finally:
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await writing

    async def _write(self, writer: asyncio.StreamWriter) -> None:
        item = self._item
        for index, piece in enumerate(item.pieces):
            if index:
                await asyncio.sleep(item.pause_s)
            await self._put(writer, piece)
        while item.is_endless:
            await asyncio.sleep(item.pause_s)
            await self._put(writer, item.pieces[-1])
        if item.half_closes:
            writer.write_eof()

    async def _put(self, writer: asyncio.StreamWriter, piece: bytes) -> None:
        if self._left is not None:
            piece = piece[: self._left - self._num_sent]
        # In parts, so that what is counted is what the kernel has taken, but for one part.
        for start in range(0, len(piece), _PART_BYTES):
            part = piece[start : start + _PART_BYTES]
            writer.write(part)
            await writer.drain()
            self._num_sent += len(part)


def under_way(outcomes: Sequence[Outcome], begin: float, end: float) -> Mapping[int, str]:
    """Names, by number, of the items that were under way between two times."""
    return {o.number: o.name for o in outcomes if o.began < end and o.ended > begin}
