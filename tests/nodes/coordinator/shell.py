"""A coordinator's shell on a transport that keeps what is sent, at a time that tests set."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from airdraft.mesh.codec import decode, encode
from airdraft.mesh.messages import PROTOCOL_VERSION, Hello, Welcome
from airdraft.mesh.transport import Frames, Received
from airdraft.nodes.config.settings import CoordinatorConfig
from airdraft.nodes.coordinator.sends import Send
from airdraft.nodes.coordinator.service import Coordinator


class Shell:
    """quiet_s_of_all: what the transport says of each other side. keys: of the peers that have
    one. frames: of each message that was sent, with its peer."""

    endpoint = "memory://"

    def __init__(self, *config: CoordinatorConfig, **changes: Any) -> None:
        self.now = 0.0
        self.quiet_s_of_all: float | None = None
        self.keys: dict[bytes, str] = {}
        self.frames: list[tuple[bytes, Frames]] = []
        transport: Any = self
        self.coordinator = Coordinator(transport, *config, clock=lambda: self.now, **changes)

    def send(self, peer: bytes, frames: Frames) -> None:
        self.frames.append((peer, frames))

    def quiet_s(self, peer: bytes) -> float | None:
        return self.quiet_s_of_all

    def since(self, first: int) -> list[tuple[bytes, Any]]:
        """Every message after so many, with its peer."""
        return [(peer, decode(frames).message) for peer, frames in self.frames[first:]]

    @property
    def peers(self) -> list[bytes]:
        return self.coordinator.state.roster.peers()

    async def hear_frames(self, peer: bytes, frames: Frames) -> None:
        """Take a message and do all that it starts."""
        async with asyncio.TaskGroup() as group:
            self.coordinator.take(Received(peer, frames, self.keys.get(peer, "")), group)

    async def hear(self, peer: bytes, message: Any) -> list[Any]:
        """Take a message; what its peer is told."""
        before, state = len(self.frames), self.coordinator.state.welcome
        await self.hear_frames(peer, encode(message, cluster=state.cluster, epoch=state.epoch))
        return [message for other, message in self.since(before) if other == peer]

    async def join(self, peer: bytes, role: str = "client", profile: bytes = b"") -> list[Any]:
        name = peer.decode()
        return await self.hear(
            peer, Hello(name, role, hash(peer) % 2**60, PROTOCOL_VERSION, profile)
        )

    def tick(self, num_times: int = 1) -> None:
        for _ in range(num_times):
            self.coordinator.tick()

    def say(self, sends: Sequence[Send]) -> list[tuple[bytes, Any]]:
        """What is sent where the state says this at its next look at the time."""
        before = len(self.frames)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(self.coordinator.state, "tick", lambda _now: list(sends))
            self.tick()
        return self.since(before)


def is_welcome(told: Sequence[Any]) -> bool:
    return [type(message) for message in told] == [Welcome]
