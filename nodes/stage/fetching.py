"""Fetches the file of a part from the target, piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from airdraft.nodes.engine.protocol import EngineError
from airdraft.nodes.messages.stages import FILE_PIECE_BYTES, StageFileReply, StageFileRequest
from airdraft.nodes.stage.parts import Incoming, ReportProgress

# Pieces on their way at a time: enough for a link of 1 Gbit/s and 30 ms.
_WINDOW: Final = 8


class Fetching:
    """One transfer. send: sends a request to the target, whose replies take() gets."""

    def __init__(self, send: Callable[[Any], None]) -> None:
        self._send = send
        self._replies: asyncio.Queue[StageFileReply | str] = asyncio.Queue()

    def take(self, reply: StageFileReply) -> None:
        self._replies.put_nowait(reply)

    def fail(self, reason: str) -> None:
        """End the transfer; what has arrived is kept for another time."""
        self._replies.put_nowait(reason)

    async def run(self, place: Path, progress: ReportProgress) -> Path:
        """Returns the whole file, which has the hash that the target says. Raises EngineError."""
        incoming = await asyncio.to_thread(Incoming, place)
        try:
            self._send(StageFileRequest(0, 0))
            whole = await self._next()
            total = whole.total
            asked, num_asked = incoming.size if incoming.size <= total else incoming.begin_anew(), 0
            incoming.check_room(total)
            while incoming.size < total:
                while num_asked < _WINDOW and asked < total:
                    self._send(StageFileRequest(asked, FILE_PIECE_BYTES))
                    num_asked, asked = num_asked + 1, asked + FILE_PIECE_BYTES
                reply = await self._next()
                num_asked -= 1
                if reply.at != incoming.size or not reply.data:
                    raise EngineError(f"{place.name}: the target sends other bytes than asked for")
                await asyncio.to_thread(incoming.add, reply.data)
                progress(f"fetching {place.name}", incoming.size, total)
            progress(f"checking {place.name}", 0, None)
            return await asyncio.to_thread(incoming.finish, whole.sha256)
        finally:
            progress("", 0, None)
            incoming.close()

    async def _next(self) -> StageFileReply:
        reply = await self._replies.get()
        if isinstance(reply, str):
            raise EngineError(reply)
        return reply
