"""Which connections of a ZeroMQ socket have closed, as ZeroMQ itself tells it.

A socket monitor names the file descriptor of a connection, and ZeroMQ names the same one with each
message (SRCFD). The kernel gives a descriptor out again at once, so what is told of one may be
about the connection before: it is a reason to look, not a verdict.
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
    """Watches one socket; must be closed before it. Made before that is bound: afterwards whoever
    connects may have taken all files."""

    def __init__(self, watched: zmq.Socket[bytes]) -> None:
        self._watched = watched
        self._closed_fds: list[int] = []
        self._waiter: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        address = f"inproc://connections-{next(_numbers)}"
        watched.monitor(address, zmq.EVENT_DISCONNECTED)
        self._socket: zmq.Socket[bytes] = watched.context.socket(zmq.PAIR)
        # Without a limit: ZeroMQ's thread of input and output would wait for room in this queue.
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(address)
        self._fd = int(self._socket.getsockopt(zmq.FD))

    async def closed_fds(self) -> list[int]:
        """Descriptors of the connections that closed since the last call, at least one."""
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
        # In this order: a context does not end before all of its monitors have.
        if not self._watched.closed:
            self._watched.monitor(None, 0)
        self._socket.close()

    def _drain(self) -> None:
        """Read until there is nothing more: the descriptor tells of a change once, as any does."""
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
