"""The coordinator's shell: one socket, one clock, and the pure state between them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from mesh.codec import decode, encode
from mesh.errors import BackpressureError, DecodeError, LocalProtocolError, PeerGoneError
from mesh.messages import Bye
from mesh.transport import ServerTransport
from nodes.coordinator.state import CoordinatorState, Send
from policies.plan import Policy

logger = logging.getLogger(__name__)

_TICK_S = 0.05
_MIN_TICK_S = 0.001


class Coordinator:
    """Serves nodes and clients on one endpoint until cancelled."""

    def __init__(
        self,
        transport: ServerTransport,
        policy: Policy,
        *,
        cluster: str = "airdraft",
        heartbeat_interval_s: float = 0.5,
        heartbeat_timeout_s: float = 5.0,
        lookup: bool = False,
    ) -> None:
        self._transport = transport
        self.num_dropped = 0
        self.state = CoordinatorState(
            policy,
            cluster=cluster,
            # Later starts have higher epochs; nothing is compared with a clock.
            epoch=time.time_ns(),
            heartbeat_interval_s=heartbeat_interval_s,
            heartbeat_timeout_s=heartbeat_timeout_s,
            lookup=lookup,
            trials=True,
        )

    @property
    def endpoint(self) -> str:
        return self._transport.endpoint

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read())
            group.create_task(self._tick())

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            peer, frames = await self._transport.recv()
            try:
                envelope = decode(frames)
            except DecodeError as error:
                self.num_dropped += 1
                logger.warning("dropped a message of peer %s: %s", peer.hex(), error)
                continue
            num_bytes = sum(len(frame) for frame in frames)
            self._send_all(
                self.state.on_message(
                    peer, envelope.cluster, envelope.epoch, envelope.message, num_bytes, loop.time()
                )
            )

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            # Held back batches go to the millisecond, heartbeats have time.
            deadline = self.state.next_deadline()
            wait_s = _TICK_S if deadline is None else deadline - loop.time()
            await asyncio.sleep(min(_TICK_S, max(_MIN_TICK_S, wait_s)))
            self._send_all(self.state.tick(loop.time()))

    def _send_all(self, sends: Sequence[Send]) -> None:
        now = asyncio.get_running_loop().time()
        pending = list(sends)
        while pending:
            send = pending.pop(0)
            try:
                frames = encode(send.message, cluster=self.state.cluster, epoch=self.state.epoch)
                self._transport.send(send.peer, frames)
            except LocalProtocolError as error:
                # What a peer may say is not always what may be passed on: that request ends.
                pending += self.state.undeliverable(send, str(error), now)
            except (PeerGoneError, BackpressureError) as error:
                # A peer that cannot be reached, or does not read, is as good as gone.
                logger.debug("peer %s: %s", send.peer.hex(), error)
                pending += self.state.peer_gone(send.peer, now)
            else:
                self.state.charge(send, sum(len(frame) for frame in frames))

    def say_bye(self) -> None:
        """Tell every member that nothing follows."""
        self._send_all([Send(peer, Bye("coordinator stops")) for peer in self.state.peers()])
