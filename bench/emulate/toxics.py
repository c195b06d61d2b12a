"""A faulty TCP proxy that needs no namespaces: stalls, drips, caps, late ends, resets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from bench.emulate.cell import Direction
from bench.emulate.proxies import Proxies, Pump

_READ_BYTES = 4096
# SO_LINGER value with which closing sends a reset instead of an end and drops unsent data.
_RESETS = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Toxic:
    """Faults of each direction of a connection; a value of 0 disables a fault.

    piece_bytes: bytes that are passed on at a time. rate: limit in bytes per second. stalls_s:
    nothing passes in the last stalls_s of every every_s seconds. close_s: delay of a direction's
    end. reset_bytes: both sides are reset after so many bytes on average.
    """

    name: str
    piece_bytes: int = 0
    rate: float = 0.0
    stalls_s: float = 0.0
    every_s: float = 0.0
    close_s: float = 0.0
    reset_bytes: float = 0.0


HEALTHY = Toxic(name="healthy")
TOXICS = {
    toxic.name: toxic
    for toxic in (
        Toxic(name="stall", stalls_s=1.0, every_s=5.0),
        Toxic(name="slow-close", close_s=10.0),
        Toxic(name="reset", reset_bytes=20_000),
        Toxic(name="drip", piece_bytes=1),
        Toxic(name="cap", rate=20_000.0),
    )
}


class ToxicState:
    """One direction of one connection; pure. now: on any monotonic clock."""

    def __init__(self, toxic: Toxic, random: Random, now: float) -> None:
        self._toxic = toxic
        self._began_at = self._free_at = now
        self.piece_bytes = toxic.piece_bytes or _READ_BYTES
        mean = toxic.reset_bytes
        self._left_bytes = 1 + int(random.expovariate(1.0 / mean)) if mean else None

    def passes_at(self, num_bytes: int, now: float) -> float:
        """Returns when a piece of num_bytes may be passed on, and counts it as passed."""
        toxic = self._toxic
        at = max(now, self._free_at)
        if toxic.stalls_s:
            phase_s = (at - self._began_at) % toxic.every_s
            if phase_s >= toxic.every_s - toxic.stalls_s:
                at += toxic.every_s - phase_s
        self._free_at = at + (num_bytes / toxic.rate if toxic.rate else 0.0)
        return at

    def allowed(self, num_bytes: int) -> int:
        """Returns how many of the next num_bytes are passed on; fewer means a reset after them."""
        if self._left_bytes is None:
            return num_bytes
        allowed = min(num_bytes, self._left_bytes)
        self._left_bytes -= allowed
        return allowed


class _ResetNow(ConnectionError):
    """Both sides of this connection are to be reset."""


class ToxicCell(Proxies):
    """Places that connect over faulty proxies, without a medium.

    toxic: the fault of connections that are made from now on.
    """

    kind = "TCP proxy with toxics"

    def __init__(self, toxic: Toxic = HEALTHY, seed: int = 0) -> None:
        super().__init__()
        self.toxic = toxic
        self.num_resets = 0
        self._random = Random(seed)

    def _link(self, station: str) -> Pump:
        return partial(self._pump, self.toxic)

    async def _pump(
        self,
        toxic: Toxic,
        _direction: Direction,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        now = self._loop.time
        state = ToxicState(toxic, self._random, now())
        while data := await reader.read(_READ_BYTES):
            for start in range(0, len(data), state.piece_bytes):
                piece = data[start : start + state.piece_bytes]
                await asyncio.sleep(state.passes_at(len(piece), now()) - now())
                allowed = state.allowed(len(piece))
                writer.write(piece[:allowed])
                await writer.drain()
                if allowed < len(piece):
                    self.num_resets += 1
                    raise _ResetNow
        await asyncio.sleep(toxic.close_s)
        writer.write_eof()

    def _broken(self, writers: Sequence[asyncio.StreamWriter]) -> None:
        for writer in writers:
            link = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESETS)
            writer.transport.abort()


def toxic_cell(toxic: Toxic = HEALTHY, seed: int = 0) -> contextlib.aclosing[ToxicCell]:
    """Open a cell of faulty proxies; they are closed at the end of the block."""
    return contextlib.aclosing(ToxicCell(toxic, seed))
