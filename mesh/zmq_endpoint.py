"""What all ZeroMQ sockets of the transport share, and the socket that reports lost connections.

They are plain sockets, driven by their file descriptor. That descriptor is edge-triggered: it
turns readable once per change of state, and *any* call on the socket, sends included, may consume
that edge. So a task tries before it waits, and while a task waits, the state (EVENTS) is read again
after every call. With zmq.asyncio a send on a second handle can hide an arrival until the poll
times out.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
from typing import Final

import zmq

from airdraft.mesh.errors import LocalProtocolError, SecurityError
from airdraft.mesh.transport import MAX_FRAMES
from airdraft.mesh.unread import Unread

_READS_PER_TURN: Final = 32
# Frames of a message with too many of them that are skipped in one turn of the loop.
_SKIPPED_PER_TURN: Final = 256
# Messages of later versions may have a few frames more, and are dropped. While those of a message
# are read no other can be: 200,000 take a second or two (2 shared cores of an x86, 2026-12-01).
_MOST_PARTS: Final = 256
# A monitor's event: its number and a file descriptor.
_EVENT: Final = struct.Struct("=hi")
_numbers = itertools.count(1)


class ZmqEndpoint:
    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fd = int(socket.getsockopt(zmq.FD))
        self._waiters: dict[int, asyncio.Future[None]] = {}
        self._reads_this_turn = 0
        self._failure: SecurityError | None = None
        self._monitor: ZmqMonitor | None = None

    def fail_soon(self, error: SecurityError) -> None:
        """Make every wait and call from now on raise this error. Any thread may call it."""
        self._failure = error
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, so no task waits
                self._loop.call_soon_threadsafe(self._fail_waiters, error)

    def _fail_waiters(self, error: SecurityError) -> None:
        for waiter in self._waiters.values():
            if not waiter.done():
                waiter.set_exception(error)

    def close(self) -> None:
        if self._socket.closed:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._fd)
        for waiter in self._waiters.values():
            if not waiter.done():
                waiter.set_exception(LocalProtocolError("closed while a task waits on it"))
        if self._monitor is not None:
            self._monitor.close()
        self._socket.close()

    async def _closed_fds(self) -> list[int]:
        """Wait for and return the descriptors of connections that seem to have closed."""
        self._check_open()
        if self._monitor is None:
            self._monitor = ZmqMonitor(self._socket)
        found = await self._monitor.closed_fds()
        if not self._socket.closed:
            # Reading EVENTS makes ZeroMQ process the closing, so that a later send fails.
            self._on_edge()
        return found

    async def _recv(self, max_parts: int) -> tuple[list[bytes], str]:
        """Wait for the next message and return its parts and its sender's key."""
        # Without this a flood of messages would block all other tasks, including heartbeats.
        self._reads_this_turn += 1
        if self._reads_this_turn >= _READS_PER_TURN:
            self._reads_this_turn = 0
            await asyncio.sleep(0)
        while True:
            self._check_open()
            try:
                first = self._socket.recv(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                await self._wait_for(zmq.POLLIN)
                continue
            key = self._sender_of(first)
            parts = [first.bytes]
            num_parts = 1
            while self._socket.getsockopt(zmq.RCVMORE):
                part = self._socket.recv(zmq.DONTWAIT)
                num_parts += 1
                if num_parts <= max_parts:
                    parts.append(part)
                elif num_parts % _SKIPPED_PER_TURN == 0:
                    await asyncio.sleep(0)
            self._wake_waiters()
            self._note_read(first, parts)
            if num_parts > _MOST_PARTS:
                self._sent_too_many(first)
            # A message without a frame, or with too many, is dropped.
            if max_parts - MAX_FRAMES < num_parts <= max_parts:
                return parts, key

    def _sender_of(self, first: zmq.Frame) -> str:
        """Note the sender of a message; return the key that it has proven, "" without keys."""
        return ""

    def _note_read(self, first: zmq.Frame, parts: list[bytes]) -> None:
        """Note a message that was read, without the frames that are too many."""

    def _sent_too_many(self, first: zmq.Frame) -> None:
        """Note that a message had so many frames that reading them delayed all others."""

    def _send(self, parts: list[bytes]) -> None:
        self._check_open()
        last = len(parts) - 1
        error: zmq.ZMQError | None = None
        for index, part in enumerate(parts):
            try:
                self._socket.send(part, zmq.DONTWAIT | (0 if index == last else zmq.SNDMORE))
            except zmq.ZMQError as raised:
                error = error or raised
                if index == 0:
                    break
                # The connection was lost within the message. ZeroMQ drops frames up to the last
                # one, so the rest must follow, or the next message would be dropped too.
        self._wake_waiters()
        if error is not None:
            raise error

    async def _wait_for(self, event: int) -> None:
        """Wait until the socket has the event, even if another call consumes the edge."""
        if event in self._waiters:
            raise LocalProtocolError("two tasks wait for the same event of one transport")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._fd, self._on_edge)
        self._waiters[event] = waiter = self._loop.create_future()
        try:
            # The failure may have come before there was a loop to notify.
            self._check_open()
            self._wake_waiters()
            await waiter
        finally:
            del self._waiters[event]

    def _wake_waiters(self) -> None:
        if self._waiters and not self._socket.closed:
            self._on_edge()

    def _on_edge(self) -> None:
        # Reading EVENTS also consumes the edge, so an unread socket does not spin the loop.
        events = int(self._socket.getsockopt(zmq.EVENTS))
        for event, waiter in self._waiters.items():
            if events & event and not waiter.done():
                waiter.set_result(None)

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._socket.closed:
            raise LocalProtocolError("the transport is closed")


class ZmqMonitor(ZmqEndpoint):
    """Reports closed connections and the bound socket, using ZeroMQ's socket monitor.

    listening_fd: descriptor of the socket that the last bind has made.

    An event has the file descriptor of a connection, and so has each message (SRCFD). The kernel
    reuses a descriptor at once, so an event may concern an earlier connection with the same
    descriptor. It is a reason to check, not a proof.

    Create it before the watched socket is bound, because new connections may use up all files
    afterwards, and close it before that socket.
    """

    def __init__(self, watched: zmq.Socket[bytes], unread: Unread | None = None) -> None:
        """unread: is notified of each connection that opens or closes."""
        self._watched = watched
        self._unread = unread
        address = f"inproc://connections-{next(_numbers)}"
        events = zmq.EVENT_DISCONNECTED | zmq.EVENT_LISTENING
        watched.monitor(address, events | (zmq.EVENT_ACCEPTED if unread is not None else 0))
        socket: zmq.Socket[bytes] = watched.context.socket(zmq.PAIR)
        # No limit, because ZeroMQ's I/O thread would wait for room in this queue.
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(address)
        super().__init__(socket)
        self.listening_fd = -1

    def read(self) -> list[int]:
        """Returns the descriptors that closed since the last call, and notes a bind since then."""
        found: list[int] = []
        with contextlib.suppress(zmq.Again):
            while True:
                event = self._socket.recv_multipart(zmq.DONTWAIT)
                number, fd = _EVENT.unpack(event[0])
                if number == zmq.EVENT_DISCONNECTED:
                    found.append(fd)
                    if self._unread is not None:
                        self._unread.closed(fd)
                elif number == zmq.EVENT_ACCEPTED and self._unread is not None:
                    self._unread.opened(fd)
                elif number == zmq.EVENT_LISTENING:
                    self.listening_fd = fd
        return found

    async def closed_fds(self) -> list[int]:
        """Wait for and return the descriptors, at least one, that closed since the last call."""
        found: list[int] = []
        while not found:
            await self._wait_for(zmq.POLLIN)
            found = self.read()
        return found

    def close(self) -> None:
        # In this order, because a context ends only after all of its monitors.
        if not self._socket.closed and not self._watched.closed:
            self._watched.monitor(None, 0)
        super().close()
