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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from airdraft.mesh.codec import decode, encode
from airdraft.mesh.errors import BackpressureError, MeshError
from airdraft.mesh.keys import ClientKeys
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
    MAX_ROWS_BYTES,
    RESTORE,
    SAVE,
    StageCommand,
    StageOpenReply,
    StageOpenRequest,
    StagePassReply,
    StagePassRequest,
    StagePiece,
)

_PING_EVERY_S: Final = 0.5
# A stage that was silent for so long is lost. Its Pongs do not wait for its passes.
_SILENCE_S: Final = 2.0
# For so long a target keeps its streams while a stage is away. Then it ends and waits as it starts:
# the coordinator takes a target without progress for 30 s for stuck.
_RETURN_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class StageAddress:
    """Where a stage listens, and the keys of the link to it; None on this machine."""

    endpoint: str
    keys: ClientKeys | None


@dataclass(slots=True)
class _Link:
    endpoint: str
    client: ZmqClient
    heard_at: float


class StageLinks:
    """All stages before the last one, in their order.

    limit_s: how long to wait at first for a stage that cannot be reached yet.
    """

    def __init__(self, stages: Sequence[StageAddress], limit_s: float) -> None:
        self._stages, self._limit_s = stages, limit_s
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

    def open(self, info: EngineInfo, first: int) -> int:
        """Connect, and check that the stages are those before block `first` of this model.

        Returns the cells of the one with the fewest. Raises EngineError, which names the stage.
        """
        if self._failure is not None:
            self.close()
            self._begin_anew()
            self._limit_s = _RETURN_S
        self._thread.start()
        future = asyncio.run_coroutine_threadsafe(self._open_all(info, first), self._loop)
        try:
            return future.result()
        except MeshError as error:
            raise EngineError(str(error)) from error

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
            for stage in self._stages:
                client = context.connect(stage.endpoint, stage.keys)
                self._links.append(_Link(stage.endpoint, client, now))
            self._loop.run_forever()
            for link in self._links:
                with contextlib.suppress(MeshError):
                    link.client.send(encode(Bye("")))
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))

    async def _open_all(self, info: EngineInfo, first: int) -> int:
        request = StageOpenRequest(info.model_hash, info.numerics_class, info.max_sequences)
        at, num_cells = 0, info.num_cells
        for number, link in enumerate(self._links):
            reply = await self._opened(link, request)
            if reply.reason:
                raise EngineError(f"stage {link.endpoint}: {reply.reason}")
            if reply.first != at or reply.end <= at:
                raise EngineError(
                    f"stage {link.endpoint} begins with block {reply.first} and not {at}: "
                    f"name the stages in the order of their blocks"
                )
            at, self._width, link.heard_at = reply.end, reply.width, time.monotonic()
            num_cells = min(num_cells, reply.num_cells)
            a_block = reply.saved_bytes / (reply.end - reply.first)
            self.saved_bytes_a_block = min(self.saved_bytes_a_block, a_block)
            # It would take a target that is silent for gone, also while this one waits for others.
            for work in (self._listen(number, link), self._watch(link)):
                self._tasks.append(self._loop.create_task(work))
        if at != first:
            raise EngineError(f"the stages end before block {at}, and the last begins with {first}")
        return num_cells

    async def _opened(self, link: _Link, request: StageOpenRequest) -> StageOpenReply:
        """Returns a stage's answer, for which it is asked again and again. Raises EngineError."""
        frames, why = encode(request), "did not answer: is it running, and reachable?"
        try:
            async with asyncio.timeout(self._limit_s):
                while True:
                    with contextlib.suppress(BackpressureError):
                        link.client.send(frames)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_PING_EVERY_S):
                            message = decode(await link.client.recv()).message
                            if isinstance(message, StageOpenReply):
                                if message.reason != IN_USE:
                                    return message
                                why = f"cannot be used: {IN_USE}"
                                await asyncio.sleep(_PING_EVERY_S)
        except TimeoutError:
            waited = f"waited for {self._limit_s:.0f} s"
            raise EngineError(f"stage {link.endpoint} {why} ({waited})") from None

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
                async with asyncio.timeout(_PING_EVERY_S):
                    await link.client.lost()
                    self._fail(link, "its connection closed")
            if time.monotonic() - link.heard_at > _SILENCE_S:
                self._fail(link, "it is silent")

    def _fail(self, link: _Link, reason: str) -> None:
        """Let all passes fail, now and later."""
        if self._failure is None:
            self._failure = StageLostError(f"stage {link.endpoint} is lost: {reason}")
            self._finished.put(self._failure)
