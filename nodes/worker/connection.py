"""The link of a node or client to its coordinator: it joins, answers heartbeats, and rejoins."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Callable
from typing import Any, Final, Protocol

from airdraft.mesh.codec import decode, encode
from airdraft.mesh.credits import Meter
from airdraft.mesh.errors import BackpressureError, DecodeError, MeshError
from airdraft.mesh.messages import PROTOCOL_VERSION, Bye, Credit, Hello, Ping, Pong, Refuse, Welcome
from airdraft.mesh.padding import pad
from airdraft.mesh.pauses import PauseState
from airdraft.mesh.transport import ClientTransport

logger = logging.getLogger(__name__)

# Longest wait between Hellos that could not be sent: before the first joining, and after a loss.
_FIRST_WAIT_S, _WAIT_S = 0.1, 0.5
# Bounds of the wait for the answer to a Hello that was sent. More frequent Hellos would fill a
# narrow link and the medium that it shares. Until the answer arrives a node sends nothing else.
_LEAST_ANSWER_WAIT_S, _ANSWER_WAIT_S = 0.5, 1.0
# After this time without a connection it may have been refused, which ZeroMQ does not report.
_RETRY_S = 2.0
# After this time without an answer on a connection the other end may no longer exist.
_ANSWER_S = 5.0
# Time to read messages that a coordinator sent before it closed the connection.
_LAST_WORDS_S = 0.02
_A_MOMENT_S = 0.01
# Not the module's generator, whose seed and numbers belong to the program around a client.
_jitter = random.SystemRandom()


# The reason in the Bye of a node that stops in good order, so that no request is blamed for it.
STOPS: Final = "stops"


class RefusedError(MeshError):
    """The coordinator refused this node. The text is its reason; code: as in Refuse."""

    def __init__(self, reason: str, code: str = "") -> None:
        super().__init__(reason)
        self.code = code


class NoCoordinatorError(MeshError):
    """No coordinator answered at the endpoint within the time allowed."""

    def __init__(self, endpoint: str, waited_s: float) -> None:
        super().__init__(
            f"no coordinator answered at {endpoint} within {waited_s:g} s: "
            f"start a mesh with `airdraft serve`, correct the endpoint, or, where links have keys, "
            f"`airdraft join TOKEN` here or authorize this machine's key there"
        )


class LostCoordinatorError(MeshError):
    """The coordinator was lost, and this member does not wait for another one."""

    def __init__(self, endpoint: str, how: str) -> None:
        super().__init__(f"the coordinator at {endpoint} {how}: try again when it is back")


class ConnectionHandler(Protocol):
    """The user of a link. Both methods are called on the event loop and must not block."""

    def on_joined(self, welcome: Welcome) -> None:
        """A new membership has begun, and all state of an earlier one is void."""

    def on_message(self, message: Any) -> None: ...


class Connection:
    """Keeps this node joined to its coordinator. run() ends only by an error or cancellation."""

    def __init__(
        self,
        transport: ClientTransport,
        handler: ConnectionHandler,
        *,
        endpoint: str,
        node: str,
        role: str,
        profile: bytes = b"",
        progress: Callable[[], int] = lambda: 0,
        join_timeout_s: float | None = 10.0,
        rejoins: bool = True,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._transport = transport
        self._handler = handler
        self._endpoint = endpoint
        self._hello = Hello(node, role, secrets.randbits(62), PROTOCOL_VERSION, profile)
        self._progress = progress
        self._join_timeout_s = join_timeout_s
        self._rejoins = rejoins
        self._on_lost = on_lost
        self._welcome: Welcome | None = None
        self._let_in = asyncio.Event()
        self._heard_at = 0.0
        self._meter = Meter()
        self.num_dropped = 0

    @property
    def is_joined(self) -> bool:
        """Whether the coordinator has welcomed this member and has not been lost since."""
        return self._welcome is not None

    def send(self, message: Any) -> int:
        """Send within the current membership; without one the message is dropped and counted.

        Returns the bytes that were handed to the transport, 0 for none. Heartbeats find out about
        losses after that.
        """
        frames = self.packed(message)
        if self._welcome is not None and self._welcome.pads:
            frames = pad(frames)
        if frames:
            # Otherwise the coordinator is gone or stuck; the heartbeats find out.
            with contextlib.suppress(BackpressureError):
                self._transport.send(frames)
                return sum(map(len, frames))
        self.num_dropped += 1
        return 0

    def packed(self, message: Any) -> list[bytes]:
        """Returns the frames of a message as it would be sent now; [] without a membership."""
        welcome = self._welcome
        if welcome is None:
            return []
        return encode(message, cluster=welcome.cluster, epoch=welcome.epoch)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._read())
            group.create_task(self._keep_joined())

    async def _watch(self) -> None:
        """End the membership when its connection closes."""
        while True:
            await self._transport.lost()
            welcome = self._welcome
            await asyncio.sleep(_LAST_WORDS_S)
            if welcome is not None and self._welcome is welcome:
                self._lose("closed the connection", says_bye=False)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            frames = await self._transport.recv()
            self._heard_at = loop.time()
            # A message of a later version's kind has been read as well, though it is dropped.
            if granted := self._meter.read(sum(map(len, frames))):
                self.send(Credit(granted))
            try:
                envelope = decode(frames)
            except DecodeError as error:
                self.num_dropped += 1
                logger.warning("dropped a message from %s: %s", self._endpoint, error)
                continue
            self._on_envelope(envelope.cluster, envelope.epoch, envelope.message)

    def _on_envelope(self, cluster: str, epoch: int, message: Any) -> None:
        match message:
            case Welcome():
                if self._welcome is None:
                    self._welcome = message
                    self._let_in.set()
                    self._meter.reset()
                    self._handler.on_joined(message)
            case Refuse(reason=reason, code=code):
                raise RefusedError(reason, code)
            case _ if self._welcome is None or (
                (cluster, epoch) != (self._welcome.cluster, self._welcome.epoch)
            ):
                self.num_dropped += 1
            case Bye():
                self._lose("stopped", logging.INFO)
            case Ping(seq=seq):
                self.send(Pong(seq, self._progress()))
            case _:
                self._handler.on_message(message)

    async def _keep_joined(self) -> None:
        loop = asyncio.get_running_loop()
        started = unconnected_since = unanswered_since = loop.time()
        pauses, wait_s = PauseState(), 0.0
        has_joined = False
        while True:
            now = loop.time()
            # Time in which this process did not run does not count as silence of the coordinator.
            self._heard_at = min(now, self._heard_at + pauses.looked(now, wait_s))
            if self._welcome is not None:
                has_joined = True
                unconnected_since = unanswered_since = now
                wait_s = self._silence(self._welcome, now)
                await asyncio.sleep(wait_s)
                continue
            limit = self._join_timeout_s
            if not has_joined and limit is not None and now - started > limit:
                raise NoCoordinatorError(self._endpoint, limit)
            try:
                self._transport.send(encode(self._hello))
                unconnected_since = now
                has_left = True
            except BackpressureError:
                logger.debug("no connection to %s yet", self._endpoint)
                unanswered_since, has_left = now, False
            if now - unconnected_since > _RETRY_S or now - unanswered_since > _ANSWER_S:
                unconnected_since = unanswered_since = now
                self._transport.retry()
                has_left = False
            # The jitter spreads the Hellos of nodes after a coordinator's restart.
            least_s, most_s = 0.02, _WAIT_S if has_joined else _FIRST_WAIT_S
            if has_left:
                least_s, most_s = _LEAST_ANSWER_WAIT_S, _ANSWER_WAIT_S
            wait_s = _jitter.uniform(least_s, most_s)
            if not has_joined and limit is not None:
                wait_s = min(wait_s, started + limit - now + _A_MOMENT_S)
            self._let_in.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._let_in.wait()

    def _silence(self, welcome: Welcome, now: float) -> float:
        """End the membership if the coordinator was silent for too long.

        Returns the seconds until the next check.
        """
        silent_s, limit_s = now - self._heard_at, welcome.heartbeat_timeout_s
        if silent_s > limit_s and (quiet_s := self._transport.quiet_s()) is not None:
            # During the transfer of a large message no other message arrives.
            silent_s = min(silent_s, quiet_s)
            self._heard_at = now - silent_s
        if silent_s > limit_s:
            self._lose(f"has been silent for {silent_s:.1f} s")
            return 0.0
        return min(welcome.heartbeat_interval_s, limit_s - silent_s + _A_MOMENT_S)

    def _lose(self, how: str, level: int = logging.WARNING, *, says_bye: bool = True) -> None:
        if not self._rejoins:
            raise LostCoordinatorError(self._endpoint, how)
        logger.log(level, "the coordinator at %s %s", self._endpoint, how)
        if says_bye:
            # If the coordinator is alive after all, it must know that this node drops its streams.
            self.say_bye(how)
        self._welcome = None
        self._on_lost()

    def say_bye(self, reason: str) -> None:
        self.send(Bye(reason))
