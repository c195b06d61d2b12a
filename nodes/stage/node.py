"""Serves a stage to one target at a time, over a link that the target opens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from airdraft.mesh.codec import decode, encode
from airdraft.mesh.errors import BackpressureError, DecodeError, PeerGoneError
from airdraft.mesh.latest import Latest
from airdraft.mesh.messages import Bye, Ping, Pong
from airdraft.mesh.transport import ServerTransport
from airdraft.nodes.engine.protocol import EngineError
from airdraft.nodes.messages.stages import (
    IN_USE,
    LOADING,
    MEASURING,
    StageFactsReply,
    StageFactsRequest,
    StageFileReply,
    StageOpenReply,
    StageOpenRequest,
    StagePassReply,
    StagePassRequest,
)
from airdraft.nodes.stage.fetching import Fetching
from airdraft.nodes.stage.lent import Lent
from airdraft.nodes.stage.parts import Part, Parts
from airdraft.policies.latency import CostTable

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A target that was silent for so long is gone. It sends something every half second.
_SILENCE_S: Final = 3.0
_LOOK_EVERY_S: Final = 0.5
# Several targets may ask before one of them uses the stage.
_MOST_MEASURED: Final = 4
# A reply holds 256 characters of a reason.
_MOST_REASON: Final = 250


class StageNode:
    """One stage.

    parts: what it can run. may_use: whether the key of a peer may use it. on_part: is told the file
    of a part that was loaded.
    """

    def __init__(
        self,
        transport: ServerTransport,
        parts: Parts,
        may_use: Callable[[str], bool],
        on_part: Callable[[str], None] = lambda _file: None,
    ) -> None:
        self._transport, self._parts, self._may_use = transport, parts, may_use
        self._on_part = on_part
        # The target that uses the stage, and when it was heard last.
        self._owner: bytes | None = None
        self._heard_at = 0.0
        # Grows with each target, so that passes of the last one are not run for the next.
        self._era = 0
        self._preparing: asyncio.Task[None] | None = None
        self._fetching: Fetching | None = None
        # What passes of samples take, or why that could not be measured, until it is told.
        self._measures = False
        self._measured = Latest[bytes, CostTable | str](_MOST_MEASURED)
        # Why the part that the owner wants cannot be run.
        self._failure = ""
        # What is loaded; they belong to the engine's thread while that prepares a part.
        self._part: Part | None = None
        self._lent: Lent | None = None
        self._engine = ThreadPoolExecutor(1, "engine")

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._serve(tasks))
                tasks.create_task(self._notice_losses())
                tasks.create_task(self._notice_silence())
        finally:
            self._era += 1
            # A pass cannot be interrupted, but it is short.
            await asyncio.to_thread(self._engine.shutdown)
            self._close_model()

    async def _serve(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            received = await self._transport.recv()
            try:
                message = decode(received.frames).message
            except DecodeError as error:
                logger.warning("a message was dropped: %s", error)
                continue
            peer = received.peer
            if not self._may_use(received.key):
                self._refuse(peer, message, "this key is not one of a target")
                continue
            if isinstance(message, StageFactsRequest):
                self._tell_facts(peer, message, tasks)
            elif isinstance(message, StageOpenRequest):
                self._open(peer, message, tasks)
            elif peer == self._owner:
                self._heard_at = _now()
                if isinstance(message, Bye):
                    self._release("it has ended")
                elif isinstance(message, Ping):
                    self._send(peer, Pong(message.seq, 0))
                elif isinstance(message, StagePassRequest):
                    self._begin(peer, message)
                elif isinstance(message, StageFileReply) and self._fetching is not None:
                    self._fetching.take(message)

    def _refuse(self, peer: bytes, message: object, reason: str) -> None:
        if isinstance(message, StageFactsRequest):
            self._send(peer, StageFactsReply(reason, 0))
        elif isinstance(message, StageOpenRequest):
            self._send(peer, StageOpenReply(reason, 0, 0, 0))

    def _in_engine(self, work: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._engine, work, *args)

    # -- who uses it, and with which part ----------------------------------------------------------

    def _tell_facts(
        self, peer: bytes, request: StageFactsRequest, tasks: asyncio.TaskGroup
    ) -> None:
        if self._owner not in (None, peer):
            self._refuse(peer, request, IN_USE)
            return
        passes: tuple[CostTable, ...] = ()
        if request.sample:
            measured = self._measured.pop(request.sample, None)
            if measured is None:
                if not self._measures:
                    self._measures = True
                    tasks.create_task(self._measure(request))
                self._refuse(peer, request, MEASURING)
                return
            if isinstance(measured, str):
                self._refuse(peer, request, measured)
                return
            passes = (measured,)
        fixed = self._parts.fixed
        only = () if fixed is None else (fixed.model_hash, fixed.first, fixed.end)
        free = self._parts.free_bytes(self._part)
        self._send(peer, StageFactsReply("", free, passes, *only))

    async def _measure(self, request: StageFactsRequest) -> None:
        measured: CostTable | str
        try:
            work = self._parts.measure, request.sample, request.file_bytes
            measured = await self._in_engine(*work)
        except EngineError as error:
            logger.error("passes could not be measured: %s", error)
            measured = str(error)[:_MOST_REASON] or "failed"
        self._measured[request.sample], self._measures = measured, False

    def _open(self, peer: bytes, request: StageOpenRequest, tasks: asyncio.TaskGroup) -> None:
        part = Part(request.model_hash, request.part, request.first, request.end)
        if self._owner not in (None, peer):
            self._refuse(peer, request, IN_USE)
            return
        if reason := self._parts.refusal(part):
            self._refuse(peer, request, reason)
            return
        if self._owner is None:
            self._failure = ""
        self._owner, self._heard_at = peer, _now()
        if self._preparing is not None and not self._preparing.done():
            self._refuse(peer, request, LOADING)
        elif self._failure:
            self._refuse(peer, request, self._failure)
            self._release(self._failure)
        elif not self._is_loaded(part, request):
            self._preparing = tasks.create_task(self._prepare(part, request))
            self._refuse(peer, request, LOADING)
        else:
            self._lend(peer, request)

    def _is_loaded(self, part: Part, request: StageOpenRequest) -> bool:
        return (
            self._lent is not None
            and self._part is not None
            and self._part.is_same_as(part)
            and request.max_sequences <= self._lent.model.info.max_sequences
            and (self._lent.model.keeps_states or not request.keeps_states)
        )

    def _lend(self, peer: bytes, request: StageOpenRequest) -> None:
        """Let a target use the loaded part, with empty sequences."""
        assert self._lent is not None
        model = self._lent.model
        if request.numerics_class != model.info.numerics_class:
            reason = "this stage computes with another build, profile or kernels"
            self._refuse(peer, request, reason)
            self._release(reason)
            return
        self._forget_sequences()
        room = self._lent.told_saved_bytes
        self._send(peer, StageOpenReply("", model.width, model.info.num_cells, room))
        logger.info("a target uses this stage")

    async def _prepare(self, part: Part, request: StageOpenRequest) -> None:
        owner = self._owner
        assert owner is not None
        try:
            path = await self._in_engine(self._parts.find, part)
            if path is None:
                self._fetching = Fetching(lambda message: self._send(owner, message))
                try:
                    place = self._parts.place(part)
                    path = await self._fetching.run(place, self._parts.progress)
                finally:
                    self._fetching = None

            def load() -> None:
                assert path is not None
                self._close_model()
                model = self._parts.open(
                    path, request.max_sequences, keeps_states=request.keeps_states
                )
                self._lent, self._part = Lent(model, self._parts.most_saved_bytes()), part

            await self._in_engine(load)
        except EngineError as error:
            logger.error("%s cannot be run: %s", part.file, error)
            if self._owner == owner:
                self._failure = str(error)[:_MOST_REASON] or "failed"
            return
        logger.info("%s is loaded", part.file)
        self._on_part(part.file)

    def _close_model(self) -> None:
        lent, self._lent, self._part = self._lent, None, None
        if lent is not None:
            lent.close()

    def _release(self, reason: str) -> None:
        """Forget the target and all that it had here."""
        if self._owner is not None and reason:
            logger.info("the target is gone: %s", reason)
        self._owner = None
        if self._fetching is not None:
            self._fetching.fail("the target is gone")
        self._forget_sequences()

    def _forget_sequences(self) -> None:
        self._era += 1
        self._in_engine(self._clear)

    async def _notice_losses(self) -> None:
        while True:
            if self._owner in await self._transport.lost_peers():
                self._release("its connection closed")

    async def _notice_silence(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if self._owner is not None and _now() - self._heard_at > _SILENCE_S:
                self._release("it was silent")

    def _send(self, peer: bytes, message: Any) -> None:
        try:
            self._transport.send(peer, encode(message))
        except (PeerGoneError, BackpressureError) as error:
            if peer == self._owner:
                self._release(str(error))

    # -- passes ------------------------------------------------------------------------------------

    def _begin(self, peer: bytes, request: StagePassRequest) -> None:
        era = self._era

        def work() -> StagePassReply | None:
            return self._ran(request) if era == self._era else None

        def finish(running: asyncio.Future[StagePassReply | None]) -> None:
            reply = None if running.cancelled() else running.result()
            if reply is not None and era == self._era:
                self._send(peer, reply)
                if reply.reason:
                    # What its sequences have now is not known to the target.
                    self._release(reply.reason)

        self._in_engine(work).add_done_callback(finish)

    def _ran(self, request: StagePassRequest) -> StagePassReply:
        try:
            if self._lent is None:
                raise EngineError("no part of a model is loaded")
            return StagePassReply(request.number, "", self._lent.run(request))
        except (EngineError, KeyError) as error:
            logger.warning("a pass failed: %s", error)
            return StagePassReply(request.number, str(error)[:_MOST_REASON] or "failed", b"")

    def _clear(self) -> None:
        if self._lent is not None:
            self._lent.clear()


def _now() -> float:
    return asyncio.get_running_loop().time()
