"""The links of one target to the stages before its own, in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from airdraft.mesh.codec import decode, encode
from airdraft.mesh.errors import BackpressureError, MeshError
from airdraft.mesh.messages import Bye, Ping
from airdraft.mesh.transport import ClientTransport
from airdraft.nodes.engine.protocol import EngineError, EngineInfo, Rows
from airdraft.nodes.engine.split.last import StageLostError
from airdraft.nodes.messages.stages import (
    IN_USE,
    LOADING,
    StageCommand,
    StageFileRequest,
    StageOpenReply,
    StageOpenRequest,
    StagePassReply,
    StagePassRequest,
    StagePiece,
)
from airdraft.nodes.stage.asking import ASK_EVERY_S, asked_again
from airdraft.nodes.stage.outgoing import PartFiles
from airdraft.nodes.stage.parts import Part

# A stage that was silent for so long is lost. Its Pongs do not wait for its passes.
_SILENCE_S: Final = 2.0


class SilentStageError(EngineError):
    """A stage cannot be reached, or is another target's; perhaps another one takes its place."""


@dataclass(slots=True)
class Link:
    """The link to a stage. name: as users know it."""

    name: str
    part: Part
    client: ClientTransport
    heard_at: float = 0.0
    # The last pass whose rows have come back.
    answered: int = 0
    # Pieces of the part's file are sent in the order in which they are asked for.
    sending: asyncio.Lock = field(default_factory=asyncio.Lock)
    # Why they cannot be sent.
    cannot_send: str = ""


class Chain:
    """Stages that are used together, until one of them is lost.

    failure: why no more passes can begin; None while they can.
    """

    def __init__(
        self,
        links: Sequence[Link],
        files: PartFiles,
        finished: Callable[[Rows | StageLostError], None],
    ) -> None:
        """files: of parts that stages lack. finished: gets the rows of passes in their order, or
        why there will be no more."""
        self._links, self._files, self._finished = links, files, finished
        self.failure: StageLostError | None = None
        self._numbers = 0
        # Of each pass that is under way: its commands and pieces, for the stages that follow.
        self._under_way: dict[int, tuple[tuple[StageCommand, ...], tuple[StagePiece, ...]]] = {}
        self.width = 0
        self.saved_bytes_a_block = math.inf
        # A loop alone does not keep its tasks.
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, info: EngineInfo, limit_s: float) -> int:
        """Have each stage load its part.

        Returns the cells of the one with the fewest. limit_s: how long to wait for one that does
        nothing. Raises EngineError, which names the stage, and MeshError; SilentStageError if it
        did nothing for so long.
        """
        num_cells = info.num_cells
        for number, link in enumerate(self._links):
            part = link.part
            request = StageOpenRequest(
                *(info.model_hash, info.numerics_class, info.max_sequences),
                *(part.file, part.first, part.end),
                keeps_states=info.can_take_back and not info.can_cut,
            )
            reply = await self._opened(link, request, limit_s)
            if reply.reason:
                raise EngineError(f"stage {link.name}: {reply.reason}")
            self.width, link.heard_at = reply.width, asyncio.get_running_loop().time()
            num_cells = min(num_cells, reply.num_cells)
            a_block = reply.saved_bytes / (part.end - part.first)
            self.saved_bytes_a_block = min(self.saved_bytes_a_block, a_block)
            # It would take a target that is silent for gone, also while this one waits for others.
            self._spawn(self._listen(number, link))
            self._spawn(self._watch(link))
        return num_cells

    def close(self) -> None:
        """Tell the stages that they are free for others."""
        for link in self._links:
            with contextlib.suppress(MeshError):
                link.client.send(encode(Bye("")))
        for task in self._tasks:
            task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    # -- opening -----------------------------------------------------------------------------------

    async def _opened(
        self, link: Link, request: StageOpenRequest, limit_s: float
    ) -> StageOpenReply:
        """Returns a stage's answer, for which it is asked again and again. Raises EngineError.

        The stage may take any time for its part, as long as it says that it is at it.
        """
        why, loop = "did not answer: is it running, and reachable?", asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        async for message in asked_again(link.client, request):
            if isinstance(message, StageFileRequest):
                self._spawn(self._send_piece(link, message))
                deadline = loop.time() + limit_s
            elif isinstance(message, StageOpenReply):
                if message.reason not in (IN_USE, LOADING):
                    return message
                why = f"cannot be used: {message.reason}"
                if message.reason == LOADING:
                    deadline = loop.time() + limit_s
            if link.cannot_send:
                why = f"lacks {link.part.file}, which cannot be sent: {link.cannot_send}"
                break
            if loop.time() > deadline:
                raise SilentStageError(f"stage {link.name} {why} (waited for {limit_s:.0f} s)")
        raise EngineError(f"stage {link.name} {why}")

    async def _send_piece(self, link: Link, request: StageFileRequest) -> None:
        async with link.sending:
            try:
                reply = await asyncio.to_thread(self._files.piece, link.part, request)
                link.client.send(encode(reply))
            except (MeshError, EngineError) as error:
                link.cannot_send = str(error)

    # -- passes ------------------------------------------------------------------------------------

    def begin(
        self, commands: tuple[StageCommand, ...], pieces: tuple[StagePiece, ...], rows: bytes
    ) -> None:
        """Let a pass begin, after commands. rows: float32 of (tokens, width)."""
        self._numbers += 1
        self._under_way[self._numbers] = commands, pieces
        self._pass_on(0, self._numbers, rows)

    async def _listen(self, place: int, link: Link) -> None:
        try:
            while True:
                message = decode(await link.client.recv()).message
                link.heard_at = asyncio.get_running_loop().time()
                if isinstance(message, StagePassReply):
                    self._take(place, link, message)
        except MeshError as error:
            self._fail(link, str(error))

    def _take(self, place: int, link: Link, reply: StagePassReply) -> None:
        link.answered += 1
        if reply.reason or reply.number != link.answered or reply.number not in self._under_way:
            self._fail(link, reply.reason or f"answered pass {reply.number} out of turn")
            return
        _, pieces = self._under_way[reply.number]
        count = sum(each.count for each in pieces)
        if len(reply.rows) != 4 * count * self.width:
            self._fail(link, f"gave {len(reply.rows)} bytes for {count} rows")
        elif place + 1 < len(self._links):
            self._pass_on(place + 1, reply.number, reply.rows)
        elif self.failure is None:
            del self._under_way[reply.number]
            self._finished(np.frombuffer(reply.rows, np.float32).reshape(count, self.width))

    def _pass_on(self, place: int, number: int, rows: bytes) -> None:
        if self.failure is not None:
            return
        link = self._links[place]
        try:
            link.client.send(encode(StagePassRequest(number, *self._under_way[number], rows)))
        except BackpressureError:
            self._fail(link, "its connection is gone")
        except MeshError as error:
            self._fail(link, str(error))

    # -- losses ------------------------------------------------------------------------------------

    async def _watch(self, link: Link) -> None:
        """Notice within 2 s that a stage is lost, also while no pass is under way."""
        frames, loop = encode(Ping(0, 0)), asyncio.get_running_loop()
        while self.failure is None:
            with contextlib.suppress(BackpressureError):
                link.client.send(frames)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASK_EVERY_S):
                    await link.client.lost()
                    self._fail(link, "its connection closed")
            if loop.time() - link.heard_at > _SILENCE_S:
                self._fail(link, "it is silent")

    def _fail(self, link: Link, reason: str) -> None:
        """Let all passes fail, now and later."""
        if self.failure is None:
            self.failure = StageLostError(f"stage {link.name} is lost: {reason}")
            self._finished(self.failure)
