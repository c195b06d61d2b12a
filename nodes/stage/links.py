"""A target's links to the stages before its own: implements Ahead over the network.

The links have a thread with an event loop. It hands the rows of one stage to the next while the
engine's thread computes the last stage, so that all of them work at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from airdraft.mesh.errors import MeshError
from airdraft.mesh.zmq_transport import ZmqContext
from airdraft.nodes.engine.protocol import EngineError, EngineInfo, Rows
from airdraft.nodes.engine.split.last import StageLostError
from airdraft.nodes.engine.split.stage import Piece
from airdraft.nodes.messages.stages import (
    COPY,
    CUT,
    DROP,
    KEEP,
    MAX_ROWS_BYTES,
    RESTORE,
    ROOM,
    SAVE,
    StageCommand,
    StagePiece,
)
from airdraft.nodes.stage.asking import StageAddress
from airdraft.nodes.stage.chain import Chain, Link, SilentStageError
from airdraft.nodes.stage.outgoing import PartFiles
from airdraft.nodes.stage.parts import Part

# For so long a target keeps its streams while a stage is away. Then it ends and waits as it starts:
# the coordinator takes a target without progress for 30 s for stuck.
_RETURN_S: Final = 20.0
# After so many seconds it is asked again where the stages are, because the coordinator takes some
# seconds to notice that one is gone.
_TRY_S: Final = 5.0


class RunningChain(Protocol):
    """A chain of stages in its event loop, as the engine's thread uses it."""

    chain: Chain

    def open(self, info: EngineInfo, limit_s: float) -> int:
        """As Chain.open()."""

    def begin(
        self, commands: tuple[StageCommand, ...], pieces: tuple[StagePiece, ...], rows: bytes
    ) -> None:
        """As Chain.begin()."""

    def finish(self) -> Rows | StageLostError:
        """Wait for what comes of the oldest pass."""

    def close(self) -> None: ...


class ChainThread:
    """Implements RunningChain with ZeroMQ, in a thread of its own."""

    def __init__(
        self, parts: Sequence[Part], stages: Sequence[StageAddress], files: PartFiles
    ) -> None:
        """Raises EndpointError."""
        # Rows of passes in their order, or why there will be no more.
        self._finished: queue.SimpleQueue[Rows | StageLostError] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._context = ZmqContext()
        try:
            links = [
                Link(stage.name, part, self._context.connect(stage.endpoint, stage.keys))
                for stage, part in zip(stages, parts, strict=True)
            ]
        except MeshError:
            self._loop.close()
            self._context.close()
            raise
        self.chain = Chain(links, files, self._finished.put)
        self._thread = threading.Thread(target=self._run, name="stages", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.closing(self._loop), self._context:
            self._loop.run_forever()
            self.chain.close()
            self._loop.run_until_complete(asyncio.sleep(0))

    def open(self, info: EngineInfo, limit_s: float) -> int:
        opening = self.chain.open(info, limit_s)
        return asyncio.run_coroutine_threadsafe(opening, self._loop).result()

    def begin(
        self, commands: tuple[StageCommand, ...], pieces: tuple[StagePiece, ...], rows: bytes
    ) -> None:
        self._loop.call_soon_threadsafe(self.chain.begin, commands, pieces, rows)

    def finish(self) -> Rows | StageLostError:
        return self._finished.get()

    def close(self) -> None:
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()


class StageLinks:
    """All stages before the last one, in their order."""

    def __init__(
        self,
        parts: Sequence[Part],
        find: Callable[[float], Sequence[StageAddress]],
        limit_s: float,
        files: PartFiles,
        start: Callable[
            [Sequence[Part], Sequence[StageAddress], PartFiles], RunningChain
        ] = ChainThread,
    ) -> None:
        """parts: of the stages. find: returns where the stages are, for which it waits so many
        seconds, and raises EngineError. limit_s: how long to wait at first for a stage that cannot
        be reached yet. files: of parts that stages lack. start: connects to stages."""
        self._parts, self._find, self._limit_s, self._files = parts, find, limit_s, files
        self._start = start
        self._running: RunningChain | None = None
        self._commands: list[StageCommand] = []

    def open(self, info: EngineInfo) -> int:
        """Connect, and have each stage load its part.

        Returns the cells of the one with the fewest. Raises EngineError, which names the stage.
        """
        self._commands = []
        try:
            if self._running is None:
                return self._opened(info, self._limit_s, self._limit_s)
            for _ in range(int(_RETURN_S / _TRY_S) - 1):
                with contextlib.suppress(SilentStageError):
                    return self._opened(info, _RETURN_S, _TRY_S)
            return self._opened(info, _RETURN_S, _TRY_S)
        except MeshError as error:
            raise EngineError(str(error)) from error
        finally:
            self._files.close()

    def _opened(self, info: EngineInfo, find_s: float, limit_s: float) -> int:
        """As open(). find_s, limit_s: how long to wait for a stage to be in the mesh, and to
        answer."""
        if self._running is not None:
            self._running.close()
        # A stage that was started again has to be told anew who may use it.
        stages = self._find(find_s)
        self._running = self._start(self._parts, stages, self._files)
        return self._running.open(info, limit_s)

    @property
    def _chain(self) -> Chain:
        assert self._running is not None
        return self._running.chain

    @property
    def most_tokens(self) -> int:
        """The most tokens of one pass, since the rows of it are one message."""
        return MAX_ROWS_BYTES // (4 * self._chain.width)

    @property
    def saved_bytes_a_block(self) -> float:
        return self._chain.saved_bytes_a_block

    def begin(self, pieces: Sequence[Piece], rows: Rows) -> None:
        if self._chain.failure is not None:
            raise self._chain.failure
        assert self._running is not None
        parts = tuple(StagePiece(each.seq_id, each.start, each.count) for each in pieces)
        commands, self._commands = tuple(self._commands), []
        self._running.begin(commands, parts, rows.tobytes())

    def finish(self) -> Rows:
        assert self._running is not None
        found = self._running.finish()
        if isinstance(found, StageLostError):
            raise found
        return found

    def cut(self, seq_id: int, length: int) -> None:
        self._commands.append(StageCommand(CUT, seq_id, 0, length))

    def keep(self, seq_id: int) -> None:
        self._commands.append(StageCommand(KEEP, seq_id))

    def make_room(self, num_tokens: int) -> None:
        self._commands.append(StageCommand(ROOM, 0, 0, num_tokens))

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
        if self._running is not None:
            self._running.close()
