"""Serves a stage to one target at a time, over a link that the target opens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np

from airdraft.mesh.codec import decode, encode
from airdraft.mesh.errors import BackpressureError, DecodeError, PeerGoneError
from airdraft.mesh.messages import Bye, Ping, Pong
from airdraft.mesh.transport import ServerTransport
from airdraft.nodes.engine.metadata import Blocks
from airdraft.nodes.engine.protocol import EngineError, Rows, SavedPrefix
from airdraft.nodes.engine.split.stage import Piece, StageModel
from airdraft.nodes.messages.stages import (
    COPY,
    CUT,
    DROP,
    IN_USE,
    RESTORE,
    SAVE,
    StageCommand,
    StageOpenReply,
    StageOpenRequest,
    StagePassReply,
    StagePassRequest,
)

logger = logging.getLogger(__name__)

# A target that was silent for so long is gone. It sends a Ping every half second.
_SILENCE_S: Final = 3.0
_LOOK_EVERY_S: Final = 0.5
# A reply holds 256 characters of a reason.
_MOST_REASON: Final = 250


class StageNode:
    """One stage.

    may_use: whether the key of a peer may use it. most_saved_bytes: of saved sequences.
    """

    def __init__(
        self,
        transport: ServerTransport,
        model: StageModel,
        blocks: Blocks,
        may_use: Callable[[str], bool],
        most_saved_bytes: int,
    ) -> None:
        self._transport, self._model, self._blocks = transport, model, blocks
        self._may_use, self._most_saved_bytes = may_use, most_saved_bytes
        # The target that uses the stage, and when it was heard last.
        self._owner: bytes | None = None
        self._heard_at = 0.0
        # Grows with each target, so that passes of the last one are not run for the next.
        self._era = 0
        # The two below belong to the engine's thread.
        self._saved: dict[int, SavedPrefix] = {}
        self._engine = ThreadPoolExecutor(1, "engine")

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._serve())
                tasks.create_task(self._notice_losses())
                tasks.create_task(self._notice_silence())
        finally:
            self._era += 1
            # A pass cannot be interrupted, but it is short.
            await asyncio.to_thread(self._engine.shutdown)

    async def _serve(self) -> None:
        while True:
            received = await self._transport.recv()
            try:
                message = decode(received.frames).message
            except DecodeError as error:
                logger.warning("a message was dropped: %s", error)
                continue
            if not self._may_use(received.key):
                if isinstance(message, StageOpenRequest):
                    self._send(received.peer, self._refused("this key is not one of a target"))
                continue
            if isinstance(message, StageOpenRequest):
                self._open(received.peer, message)
            elif received.peer == self._owner:
                self._heard_at = time.monotonic()
                if isinstance(message, Bye):
                    self._release("it has ended")
                elif isinstance(message, Ping):
                    self._send(received.peer, Pong(message.seq, 0))
                elif isinstance(message, StagePassRequest):
                    self._begin(received.peer, message)

    # -- who uses it -------------------------------------------------------------------------------

    def _open(self, peer: bytes, request: StageOpenRequest) -> None:
        info = self._model.info
        if self._owner not in (None, peer):
            reply = self._refused(IN_USE)
        elif request.model_hash != info.model_hash:
            reply = self._refused("this is a stage of another model")
        elif request.numerics_class != info.numerics_class:
            reply = self._refused("this stage computes with another build, profile or kernels")
        elif request.max_sequences > info.max_sequences:
            reply = self._refused(
                f"it has {info.max_sequences} sequences, and {request.max_sequences} are wanted: "
                f"raise max_streams of the stage"
            )
        else:
            self._release("")
            self._owner, self._heard_at = peer, time.monotonic()
            blocks = self._blocks
            size = self._model.width, info.num_cells
            # A target saves a sequence before it drops others for it.
            told = self._most_saved_bytes // 2
            reply = StageOpenReply("", blocks.first, blocks.end, blocks.count, *size, told)
            logger.info("a target uses this stage")
        self._send(peer, reply)

    @staticmethod
    def _refused(reason: str) -> StageOpenReply:
        return StageOpenReply(reason, 0, 0, 0, 0, 0, 0)

    def _release(self, reason: str) -> None:
        """Forget the target and all that it had here."""
        if self._owner is not None and reason:
            logger.info("the target is gone: %s", reason)
        self._owner = None
        self._era += 1
        self._engine.submit(self._clear)

    async def _notice_losses(self) -> None:
        while True:
            if self._owner in await self._transport.lost_peers():
                self._release("its connection closed")

    async def _notice_silence(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if self._owner is not None and time.monotonic() - self._heard_at > _SILENCE_S:
                self._release("it was silent")

    def _send(self, peer: bytes, message: Any) -> None:
        try:
            self._transport.send(peer, encode(message))
        except (PeerGoneError, BackpressureError) as error:
            if peer == self._owner:
                self._release(str(error))

    # -- passes ------------------------------------------------------------------------------------

    def _begin(self, peer: bytes, request: StagePassRequest) -> None:
        loop, era = asyncio.get_running_loop(), self._era

        def work() -> None:
            if era == self._era:
                reply = self._ran(request)
                # The loop is closed when the process ends.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._finish, peer, era, reply)

        self._engine.submit(work)

    def _finish(self, peer: bytes, era: int, reply: StagePassReply) -> None:
        if era != self._era:
            return
        self._send(peer, reply)
        if reply.reason:
            # What its sequences have now is not known to the target.
            self._release(reply.reason)

    def _ran(self, request: StagePassRequest) -> StagePassReply:
        try:
            for command in request.commands:
                self._do(command)
            rows = self._rows_of(request)
            pieces = [Piece(each.seq_id, each.start, each.count) for each in request.pieces]
            made = self._model.run(pieces, rows).tobytes() if pieces else b""
        except (EngineError, KeyError) as error:
            logger.warning("a pass failed: %s", error)
            return StagePassReply(request.number, str(error)[:_MOST_REASON] or "failed", b"")
        return StagePassReply(request.number, "", made)

    def _rows_of(self, request: StagePassRequest) -> Rows:
        count, width = sum(each.count for each in request.pieces), self._model.width
        if count > self._model.info.max_batch_tokens or len(request.rows) != 4 * count * width:
            raise EngineError(f"{len(request.rows)} bytes of rows for {count} tokens")
        rows: Rows = np.frombuffer(request.rows, np.float32).reshape(count, width)
        if not np.isfinite(rows).all():
            raise EngineError("rows with numbers that are not finite")
        return rows

    def _do(self, command: StageCommand) -> None:
        model = self._model
        if command.kind == CUT:
            model.truncate(command.seq_id, command.length)
        elif command.kind == COPY:
            model.copy_prefix(command.seq_id, command.other, command.length)
        elif command.kind == SAVE:
            saved = model.save(command.seq_id)
            used = sum(each.num_bytes for each in self._saved.values())
            if used + saved.num_bytes > self._most_saved_bytes:
                raise EngineError("this stage has no memory for more saved texts")
            self._saved[command.other] = saved
        elif command.kind == RESTORE:
            saved = self._saved[command.other]
            model.restore(command.seq_id, saved, saved.length)
        else:
            assert command.kind == DROP
            self._saved.pop(command.other, None)

    def _clear(self) -> None:
        self._saved.clear()
        for seq_id in range(self._model.info.max_sequences):
            self._model.truncate(seq_id, 0)
