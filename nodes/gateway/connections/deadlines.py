"""How long a peer may take to send a request, and to read an answer."""

import asyncio
from collections.abc import Callable
from typing import Final

import h11

from airdraft.nodes.gateway.config import GatewayLimits

# A body gets one more second for each of these many bytes.
_BODY_BYTES_PER_S: Final = 65_536


class RequestDeadline:
    """The time for the part of a request that is awaited. on_late: called when it is over."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limits: GatewayLimits, on_late: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._on_late = on_late
        self._phase: object = None
        self._began = 0.0
        self._num_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def await_part(self, phase: object) -> None:
        """phase: h11.IDLE while the header is awaited and h11.SEND_BODY while the body is; any
        other has no deadline. The time runs from when it changes."""
        if phase is self._phase:
            return
        self.stop()
        self._phase, self._num_bytes = phase, 0
        if phase in (h11.IDLE, h11.SEND_BODY):
            self._began = self._loop.time()
            self._timer = self._loop.call_later(self._allowed_s(), self._check)

    def received(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def forget(self) -> None:
        """Stop for good, and drop what was to be called."""
        self.stop()
        self._on_late = lambda: None

    def _allowed_s(self) -> float:
        if self._phase is h11.IDLE:
            return self._limits.header_timeout_s
        return self._limits.body_timeout_s + self._num_bytes / _BODY_BYTES_PER_S

    def _check(self) -> None:
        self._timer = None
        left_s = self._began + self._allowed_s() - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._check)
        else:
            self._on_late()


class ReadingDeadline:
    """While data waits for the peer, it has to read some of it in each limit_s. Otherwise the
    connection is aborted."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, limit_s: float
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._limit_s = limit_s
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._check(0)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self, unsent_before: int) -> None:
        self.stop()
        unsent = self._transport.get_write_buffer_size()
        if unsent and unsent == unsent_before:
            self._transport.abort()
        elif unsent:
            self._timer = self._loop.call_later(self._limit_s, self._check, unsent)
