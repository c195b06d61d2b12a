"""A target's links to the stages before its own: implements Ahead over the network.

The links have a thread with an event loop. It hands the rows of one stage to the next while the
engine's thread computes the last stage, so that all of them work at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from airdraft.mesh.codec import decode, encode
from airdraft.mesh.errors import BackpressureError, MeshError
from airdraft.mesh.messages import Bye, Ping
from airdraft.mesh.zmq_sockets import ZmqClient
from airdraft.mesh.zmq_transport import ZmqContext
from airdraft.nodes.engine.protocol import EngineError, EngineInfo, Rows
from airdraft.nodes.engine.split.last import StageLostError
from airdraft.nodes.engine.split.stage import Piece
from airdraft.nodes.messages.stages import (
    COPY,
    CUT,
    DROP,
    IN_USE,
    LOADING,
    MAX_ROWS_BYTES,
    RESTORE,
    SAVE,
    StageCommand,
    StageFileRequest,
    StageOpenReply,
    StageOpenRequest,
    StagePassReply,
    StagePassRequest,
    StagePiece,
)
from airdraft.nodes.stage.asking import ASK_EVERY_S, StageAddress, asked_again
from airdraft.nodes.stage.outgoing import PartFiles
from airdraft.nodes.stage.parts import Part

# A stage that was silent for so long is lost. Its Pongs do not wait for its passes.
_SILENCE_S: Final = 2.0
# For so long a target keeps its streams while a stage is away. Then it ends and waits as it starts:
# the coordinator takes a target without progress for 30 s for stuck.
_RETURN_S: Final = 20.0


@dataclass(slots=True)
class _Link:
    name: str
    part: Part
    client: ZmqClient
    heard_at: float
    # Pieces of the part's file are sent in the order in which they are asked for.
    sending: asyncio.Lock = field(default_factory=asyncio.Lock)
    # Why they cannot be sent.
    cannot_send: str = ""


class StageLinks:
    """All stages before the last one, in their order."""

    def __init__(
        self,
        parts: Sequence[Part],
        find: Callable[[float], Sequence[StageAddress]],
        limit_s: float,
        files: PartFiles,
    ) -> None:
        """parts: of the stages. find: returns where the stages are, for which it waits so many
        seconds, and raises EngineError. limit_s: how long to wait at first for a stage that cannot
        be reached yet. files: of parts that stages lack."""
        self._parts, self._find, self._limit_s, self._files = parts, find, limit_s, files
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._links: list[_Link] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="stages", daemon=True)
        # Rows of passes in their order, or why there will be no more.
        self._finished: queue.SimpleQueue[Rows | StageLostError] = queue.SimpleQueue()
        self._failure: StageLostError | None = None
        self._commands: list[StageCommand] = []
        self._numbers = 0
        # Of each pass that is under way: its commands and pieces, for the stages that follow.
        self._under_way: dict[int, tuple[tuple[StageCommand, ...], tuple[StagePiece, ...]]] = {}
        self._width = 0
        self.saved_bytes_a_block = math.inf
        # A loop alone does not keep its tasks.
        self._tasks: list[asyncio.Task[None]] = []

    def open(self, info: EngineInfo) -> int:
        """Connect, and have each stage load its part.

        Returns the cells of the one with the fewest. Raises EngineError, which names the stage.
        """
        if self._failure is not None:
            self.close()
            self._begin_anew()
            self._limit_s = _RETURN_S
        # A stage that was started again has to be told anew who may use it.
        self._stages = self._find(self._limit_s)
        self._thread.start()
        future = asyncio.run_coroutine_threadsafe(self._open_all(info), self._loop)
        try:
            return future.result()
        except MeshError as error:
            raise EngineError(str(error)) from error
        finally:
            self._files.close()

    @property
    def most_tokens(self) -> int:
        """The most tokens of one pass, since the rows of it are one message."""
        return MAX_ROWS_BYTES // (4 * self._width)

    # -- in the engine's thread --------------------------------------------------------------------

    def begin(self, pieces: Sequence[Piece], rows: Rows) -> None:
        if self._failure is not None:
            raise self._failure
        parts = tuple(StagePiece(each.seq_id, each.start, each.count) for each in pieces)
        commands, self._commands = tuple(self._commands), []
        self._numbers += 1
        self._under_way[self._numbers] = commands, parts
        self._loop.call_soon_threadsafe(self._pass_on, 0, self._numbers, rows.tobytes())

    def finish(self) -> Rows:
        found = self._finished.get()
        if isinstance(found, StageLostError):
            raise found
        return found

    def cut(self, seq_id: int, length: int) -> None:
        self._commands.append(StageCommand(CUT, seq_id, 0, length))

    def copy(self, source: int, target: int, length: int) -> None:
        self._commands.append(StageCommand(COPY, source, target, length))

    def save(self, slot: int, seq_id: int) -> None:
        self._commands.append(StageCommand(SAVE, seq_id, slot))

    def restore(self, slot: int, seq_id: int) -> None:
        self._commands.append(StageCommand(RESTORE, seq_id, slot))

    def drop(self, slot: int) -> None:
        # It may come from another thread, which adding to a list allows.
        self._commands.append(StageCommand(DROP, 0, slot))

    def close(self) -> None:
        """End the links; the stages are free for others then."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    # -- in the links' thread ----------------------------------------------------------------------

    def _run(self) -> None:
        with contextlib.closing(self._loop), ZmqContext() as context:
            now = time.monotonic()
            for stage, part in zip(self._stages, self._parts, strict=True):
                client = context.connect(stage.endpoint, stage.keys)
                self._links.append(_Link(stage.name, part, client, now))
            self._loop.run_forever()
            for link in self._links:
                with contextlib.suppress(MeshError):
                    link.client.send(encode(Bye("")))
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))

    async def _open_all(self, info: EngineInfo) -> int:
        num_cells = info.num_cells
        for number, link in enumerate(self._links):
            part = link.part
            request = StageOpenRequest(
                *(info.model_hash, info.numerics_class, info.max_sequences),
                *(part.file, part.first, part.end),
            )
            reply = await self._opened(link, request)
            if reply.reason:
                raise EngineError(f"stage {link.name}: {reply.reason}")
            self._width, link.heard_at = reply.width, time.monotonic()
            num_cells = min(num_cells, reply.num_cells)
            a_block = reply.saved_bytes / (part.end - part.first)
            self.saved_bytes_a_block = min(self.saved_bytes_a_block, a_block)
            # It would take a target that is silent for gone, also while this one waits for others.
            for work in (self._listen(number, link), self._watch(link)):
                self._tasks.append(self._loop.create_task(work))
        return num_cells

    async def _opened(self, link: _Link, request: StageOpenRequest) -> StageOpenReply:
        """Returns a stage's answer, for which it is asked again and again. Raises EngineError.

        The stage may take any time for its part, as long as it says that it is at it.
        """
        why = "did not answer: is it running, and reachable?"
        deadline = time.monotonic() + self._limit_s
        async for message in asked_again(link.client, request):
            if isinstance(message, StageFileRequest):
                self._tasks.append(self._loop.create_task(self._send_piece(link, message)))
                deadline = time.monotonic() + self._limit_s
            elif isinstance(message, StageOpenReply):
                if message.reason not in (IN_USE, LOADING):
                    return message
                why = f"cannot be used: {message.reason}"
                if message.reason == LOADING:
                    deadline = time.monotonic() + self._limit_s
            if link.cannot_send:
                why = f"lacks {link.part.file}, which cannot be sent: {link.cannot_send}"
                break
            if time.monotonic() > deadline:
                why += f" (waited for {self._limit_s:.0f} s)"
                break
        raise EngineError(f"stage {link.name} {why}")

    async def _send_piece(self, link: _Link, request: StageFileRequest) -> None:
        async with link.sending:
            try:
                reply = await asyncio.to_thread(self._files.piece, link.part, request)
                link.client.send(encode(reply))
            except (MeshError, EngineError) as error:
                link.cannot_send = str(error)

    async def _listen(self, number: int, link: _Link) -> None:
        try:
            while True:
                message = decode(await link.client.recv()).message
                link.heard_at = time.monotonic()
                if isinstance(message, StagePassReply):
                    self._take(number, link, message)
        except MeshError as error:
            self._fail(link, str(error))

    def _take(self, number: int, link: _Link, reply: StagePassReply) -> None:
        if reply.reason or reply.number not in self._under_way:
            self._fail(link, reply.reason or "answered a pass that was not asked for")
            return
        _, pieces = self._under_way[reply.number]
        count = sum(each.count for each in pieces)
        if len(reply.rows) != 4 * count * self._width:
            self._fail(link, f"gave {len(reply.rows)} bytes for {count} rows")
        elif number + 1 < len(self._links):
            self._pass_on(number + 1, reply.number, reply.rows)
        else:
            del self._under_way[reply.number]
            rows = np.frombuffer(reply.rows, np.float32).reshape(count, self._width)
            self._finished.put(rows)

    def _pass_on(self, place: int, number: int, rows: bytes) -> None:
        if self._failure is not None:
            return
        link = self._links[place]
        try:
            link.client.send(encode(StagePassRequest(number, *self._under_way[number], rows)))
        except BackpressureError:
            self._fail(link, "its connection is gone")
        except MeshError as error:
            self._fail(link, str(error))

    async def _watch(self, link: _Link) -> None:
        """Notice within 2 s that a stage is lost, also while no pass is under way."""
        frames = encode(Ping(0, 0))
        while self._failure is None:
            with contextlib.suppress(BackpressureError):
                link.client.send(frames)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASK_EVERY_S):
                    await link.client.lost()
                    self._fail(link, "its connection closed")
            if time.monotonic() - link.heard_at > _SILENCE_S:
                self._fail(link, "it is silent")

    def _fail(self, link: _Link, reason: str) -> None:
        """Let all passes fail, now and later."""
        if self._failure is None:
            self._failure = StageLostError(f"stage {link.name} is lost: {reason}")
            self._finished.put(self._failure)
