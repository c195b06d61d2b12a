"""Nodes and clients as processes in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from mesh.codec import encode
from mesh.messages import Hello
from nodes.client.upload import ANSWER_LIMIT_S, GRANT_LIMIT_S, Upload
from nodes.messages import (
    CancelRequest,
    FinishedNotice,
    LinkFields,
    NodeCommandReply,
    PromptLogprobsNotice,
    RequestFailedNotice,
    StartedNotice,
    SubmitRequest,
    TokensNotice,
    UploadGrant,
)
from tests.nodes.heard import Heard
from tests.nodes.machine.network import Network
from tests.nodes.machine.process import Process
from tests.nodes.pure_node import PureNode
from tests.nodes.reference import Reference

AIR = LinkFields("air", 1e6, 0.0)


class NodeProcess(Process):
    """A target or draft node."""

    def __init__(
        self, network: Network, clock: Callable[[], float], hello: Hello, node: PureNode
    ) -> None:
        super().__init__(network, clock, hello)
        self.node = node
        self._num_passes = 0

    def progress(self) -> int:
        return self._num_passes

    def on_joined(self) -> None:
        self.node.forget_all()

    def on_message(self, message: Any) -> None:
        for answer in self.node.take(message):
            self.send(answer)

    def can_step(self) -> bool:
        next_step = self.next_step()
        return next_step is not None and next_step <= self.clock()

    def next_step(self) -> float | None:
        return None if self.is_stopped else self.node.next_step(self.clock())

    def step(self) -> None:
        self._num_passes += 1
        for message in self.node.step(self.clock()):
            self.send(message)


@dataclass(slots=True)
class Asked:
    """A request. upload: what of it is still to be sent. failure: code and reason, if it failed.

    is_lost: the client gave its connection up, or left.
    """

    submit: SubmitRequest
    heard: Heard
    upload: Upload | None = None
    waits_until: float = 0.0
    failure: tuple[str, str] | None = None
    is_lost: bool = False

    @property
    def is_over(self) -> bool:
        return self.heard.is_over or self.failure is not None or self.is_lost


class ClientProcess(Process):
    """Who asks. is_lenient: what it sends may come more than once, so that it is answered again.

    on_failure: hears of each request that the mesh ends.
    """

    def __init__(
        self,
        network: Network,
        clock: Callable[[], float],
        hello: Hello,
        *,
        rejoins: bool,
        on_failure: Callable[[ClientProcess, Asked], None],
        is_lenient: Callable[[], bool],
    ) -> None:
        super().__init__(network, clock, hello, rejoins=rejoins)
        self.asked: dict[int, Asked] = {}
        self._on_failure = on_failure
        self._is_lenient = is_lenient

    def submit(
        self, submit: SubmitRequest, alone: Callable[[int], Reference], *, is_uploaded: bool
    ) -> None:
        heard = Heard(submit.num_choices, cache(alone))
        asked = self.asked[submit.request_id] = Asked(submit, heard)
        if is_uploaded:
            asked.upload = upload = Upload(submit.request_id, [*encode(submit), b""][:2])
            asked.waits_until = self.clock() + ANSWER_LIMIT_S
            self.send(upload.offer(submit.priority, AIR))
        else:
            self.send(submit)

    def cancel(self, asked: Asked) -> None:
        asked.upload = None
        asked.heard.cancel()
        self.send(CancelRequest(asked.submit.request_id))

    def open_requests(self) -> list[Asked]:
        return [asked for asked in self.asked.values() if not asked.is_over]

    def read(self) -> None:
        """Who has nothing else to do reads all there is."""
        super().read()
        while not self.pace_s and not self.has_ended and self.can_read():
            super().read()

    def on_lost(self) -> None:
        for asked in self.open_requests():
            asked.is_lost = True

    def tick(self) -> None:
        super().tick()
        for asked in self.open_requests() if not self.is_stopped else ():
            if asked.upload is not None and self.clock() >= asked.waits_until:
                self._send_pieces(asked, asked.upload.rest())

    def _send_pieces(self, asked: Asked, pieces: list[Any]) -> None:
        assert asked.upload is not None
        for piece in pieces:
            self.send(piece)
        asked.waits_until = self.clock() + GRANT_LIMIT_S
        if asked.upload.is_over:
            asked.upload = None

    def on_message(self, message: Any) -> None:
        if isinstance(message, NodeCommandReply):
            return
        asked = self.asked[message.request_id]
        if asked.failure is not None or asked.is_lost or (self._is_lenient() and asked.is_over):
            return
        match message:
            case RequestFailedNotice(code=code, reason=reason):
                if not asked.heard.is_over:
                    asked.failure = code, reason
                    self._on_failure(self, asked)
            case UploadGrant(num_bytes=num_bytes):
                if asked.upload is not None and num_bytes:
                    self._send_pieces(asked, [asked.upload.piece(num_bytes)])
            case StartedNotice():
                assert message.seed == asked.submit.seed
            case TokensNotice() | PromptLogprobsNotice() | FinishedNotice():
                asked.heard.take(message)
            case _:
                raise AssertionError(f"unexpected {message}")
