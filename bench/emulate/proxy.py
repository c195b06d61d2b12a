"""A cell without privileges: TCP connections to the hub pass through this process and its medium.

The data of a connection takes airtime in segments. An empty segment acknowledges each of them, as a
kernel would, and the end of a direction is one more segment. Opening a connection takes no airtime.
A connection never breaks: segments that a path loses or a cut blocks are only late.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from bench.emulate.cell import DOWN, UP, Cell, CountersOf, Direction
from bench.emulate.medium import Departure, Medium
from bench.emulate.proxies import Proxies, Pump
from bench.harness.processes import beside

HEADER_BYTES = 52  # IPv4, and TCP with timestamps
SEGMENT_BYTES = 1348
# max_tries: a byte stream has no gaps, so a segment is never given up, as TCP would not.
_NEVER = 1 << 30
# A kernel's least timeout of a retransmission.
_RESEND_S = 0.2


@dataclass(frozen=True, slots=True)
class _Segment:
    """Data for a writer; empty data ends its direction."""

    data: bytes
    writer: asyncio.StreamWriter
    has_arrived: asyncio.Event = field(default_factory=asyncio.Event)


class ProxyCell(Proxies):
    """A running cell in the event loop of its user; stations and hub are all on loopback."""

    kind = "TCP proxy"

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell
        self._medium = Medium(replace(cell, max_tries=_NEVER), resend_s=_RESEND_S)
        self._offered = asyncio.Event()
        self._departed = asyncio.Condition()

    def counters(self) -> CountersOf:
        """Returns the counters of each station and direction so far."""
        self._deliver()
        return self._medium.counters()

    def cut(self, station: str, directions: Sequence[Direction], *, ends: bool = False) -> None:
        """Hold all segments back in these directions of a station's link, until the cut ends.

        They pass when they are sent again, as late as a kernel would.
        """
        for direction in directions:
            self._medium.cut(station, direction, self._loop.time(), ends=ends)
        self._offered.set()

    async def carry(self) -> None:
        """Deliver segments when they arrive, for ever."""
        while True:
            self._offered.clear()
            if self._deliver():
                async with self._departed:
                    self._departed.notify_all()
            next_s = self._medium.next_event_s()
            limit_s = None if next_s == math.inf else max(0.0, next_s - self._loop.time())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._offered.wait(), limit_s)

    def _link(self, station: str) -> Pump:
        return partial(self._pump, station)

    async def _pump(
        self,
        station: str,
        direction: Direction,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        while data := await reader.read(SEGMENT_BYTES):
            await self._send(station, direction, _Segment(data, writer))
        end = _Segment(b"", writer)
        await self._send(station, direction, end)
        await end.has_arrived.wait()

    async def _send(self, station: str, direction: Direction, segment: _Segment) -> None:
        """Queue a segment when there is room for it; meanwhile the sender's own buffer fills."""
        size = HEADER_BYTES + len(segment.data)
        async with self._departed:
            await self._departed.wait_for(lambda: self._medium.has_room(station, direction, size))
        self._medium.offer(station, direction, size, segment, self._loop.time())
        self._offered.set()

    def _deliver(self) -> list[Departure]:
        departures = self._medium.advance(self._loop.time())
        for departure in departures:
            segment = departure.payload
            if segment is not None:
                self._hand_over(segment)
                # The acknowledgement takes the other way.
                back = DOWN if departure.direction == UP else UP
                self._medium.offer(departure.station, back, HEADER_BYTES, None, self._loop.time())
        return departures

    def _hand_over(self, segment: _Segment) -> None:
        segment.has_arrived.set()
        if segment.writer.is_closing():
            return
        if segment.data:
            segment.writer.write(segment.data)
        else:
            # The connection may have been reset unnoticed.
            with contextlib.suppress(OSError):
                segment.writer.write_eof()


@contextlib.asynccontextmanager
async def proxy_cell(cell: Cell) -> AsyncIterator[ProxyCell]:
    """Open a cell of proxies; close them all at the end."""
    proxy = ProxyCell(cell)
    async with beside(proxy.carry()), contextlib.aclosing(proxy):
        yield proxy
