"""A coordinator by hand: what it says to a member, and what it hears of it."""

from __future__ import annotations

from typing import Any

from airdraft.mesh.codec import decode, encode
from airdraft.mesh.messages import Welcome
from tests.harness.memory_transport import MemoryServer

CLUSTER, EPOCH = "test", 5


class Desk:
    """epoch: of this coordinator, which it says everything in."""

    def __init__(self, server: MemoryServer) -> None:
        self.server = server
        self.peer = b""
        self.epoch = EPOCH

    async def hear(self, *kinds: type) -> Any:
        """The next message of one of these kinds; others before it are skipped."""
        while True:
            self.peer, frames, _ = await self.server.recv()
            message = decode(frames).message
            if isinstance(message, kinds):
                return message

    def say(self, message: Any, *, cluster: str = CLUSTER, epoch: int | None = None) -> None:
        epoch = self.epoch if epoch is None else epoch
        self.server.send(self.peer, encode(message, cluster=cluster, epoch=epoch))

    def welcome(self, timeout_s: float = 60.0, *, pads: bool = False) -> None:
        self.say(Welcome("n", CLUSTER, self.epoch, 0.02, timeout_s, pads))
