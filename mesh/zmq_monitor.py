"""Reports closed connections of a ZeroMQ socket, using ZeroMQ's socket monitor.

A monitor event has the file descriptor of a connection, and so has each message (SRCFD). The kernel
reuses a descriptor at once, so an event may concern an earlier connection with the same descriptor.
It is a reason to check, not a proof.
"""

import asyncio
import itertools
import struct
from typing import Final

import zmq

from mesh.errors import LocalProtocolError

_EVENT: Final = struct.Struct("=hi")
_READS_PER_TURN: Final = 256
_numbers = itertools.count(1)


class ZmqMonitor:
    """Watches one socket, and must be closed before it.

    Create it before the socket is bound, because new connections may use up all files afterwards.
    """

    def __init__(self, watched: zmq.Socket[bytes]) -> None:
        self._watched = watched
        self._closed_fds: list[int] = []
        self._waiter: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        address = f"inproc://connections-{next(_numbers)}"
        watched.monitor(address, zmq.EVENT_DISCONNECTED)
        self._socket: zmq.Socket[bytes] = watched.context.socket(zmq.PAIR)
        # No limit, because ZeroMQ's I/O thread would wait for room in this queue.
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(address)
        self._fd = int(self._socket.getsockopt(zmq.FD))

    async def closed_fds(self) -> list[int]:
        """Wait for and return the descriptors, at least one, that closed since the last call."""
        if self._waiter is not None:
            raise LocalProtocolError("two tasks wait for connections of one transport to close")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._fd, self._drain)
            self._drain()
        if not self._closed_fds:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        found, self._closed_fds = self._closed_fds, []
        return found

    def close(self) -> None:
        if self._socket.closed:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._fd)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(LocalProtocolError("closed while a task waits on it"))
        # In this order, because a context ends only after all of its monitors.
        if not self._watched.closed:
            self._watched.monitor(None, 0)
        self._socket.close()

    def _drain(self) -> None:
        """Read all pending events, because the descriptor signals each change only once."""
        if self._socket.closed or self._loop is None:
            return
        for _ in range(_READS_PER_TURN):
            try:
                event = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                break
            number, fd = _EVENT.unpack(event[0])
            if number == zmq.EVENT_DISCONNECTED:
                self._closed_fds.append(fd)
        else:
            self._loop.call_soon(self._drain)
        if self._closed_fds and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
