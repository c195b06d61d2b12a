"""ZeroMQ sockets as transports.

They are plain sockets, driven by their file descriptor. That descriptor is edge-triggered: it
turns readable once per change of state, and *any* call on the socket, sends included, may consume
that edge. So a task tries before it waits, and while a task waits, the state (EVENTS) is read again
after every call. With zmq.asyncio a send on a second handle can hide an arrival until the poll
times out.
"""

import asyncio
import contextlib
import errno
import logging
import os
from dataclasses import replace
from typing import Final

import zmq

from mesh.accepting import AcceptGate
from mesh.endpoints import ipc_path
from mesh.errors import BackpressureError, LocalProtocolError, PeerGoneError, SecurityError
from mesh.keys import ClientKeys
from mesh.security import client_options
from mesh.tcp import quiet_s, retransmit_soon
from mesh.transport import MAX_FRAMES, Frames, Received
from mesh.zmq_monitor import ZmqMonitor

logger = logging.getLogger(__name__)

_READS_PER_TURN: Final = 32


class ZmqEndpoint:
    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fd = _get_int(socket, zmq.FD)
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
            self._wake_waiters()
            # A message without a frame, or with too many, is dropped.
            if max_parts - MAX_FRAMES < num_parts <= max_parts:
                return parts, key

    def _sender_of(self, first: zmq.Frame) -> str:
        """Note the sender of a message; return the key that it has proven, "" without keys."""
        return ""

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
        events = _get_int(self._socket, zmq.EVENTS)
        for event, waiter in self._waiters.items():
            if events & event and not waiter.done():
                waiter.set_result(None)

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._socket.closed:
            raise LocalProtocolError("the transport is closed")


class ZmqServer(ZmqEndpoint):
    """A bound ROUTER socket. Peers are the routing ids that it has drawn itself."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        endpoint: str,
        monitor: ZmqMonitor,
        *,
        has_keys: bool,
        is_inherited: bool,
    ) -> None:
        super().__init__(socket)
        self._monitor = monitor
        self._has_keys = has_keys
        self.endpoint = endpoint
        # The file of an inherited socket must be removed by the process that created it.
        path = None if is_inherited else ipc_path(endpoint)
        self._inode = None if path is None else _inode(path)
        # The descriptor over which each peer has sent, and the reverse; several peers share a
        # descriptor that the kernel has reused.
        self._fds: dict[bytes, int] = {}
        self._peers: dict[int, set[bytes]] = {}
        self._gate = AcceptGate(endpoint)
        self._gate.prepare()
        self._next_check: asyncio.TimerHandle | None = None

    async def recv(self) -> Received:
        if self._next_check is None:
            self._check_files()
        (peer, *frames), key = await self._recv(1 + MAX_FRAMES)
        return Received(peer, frames, key)

    def _check_files(self) -> None:
        """Check periodically whether there are files for new connections, and the socket's own."""
        loop = asyncio.get_running_loop()
        self._restore_socket_file()
        self._next_check = loop.call_later(self._gate.check(loop.time()), self._check_files)

    def _restore_socket_file(self) -> None:
        """Bind again if the socket file is gone, for example with the runtime directory of a user
        who has logged out. Connections stay, but there would be no new ones."""
        path = ipc_path(self.endpoint)
        if path is None or self._inode is None or os.path.lexists(path):
            return
        # It is tried again later: the directory may not be there yet.
        with contextlib.suppress(OSError, zmq.ZMQError):
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            self._socket.bind(self.endpoint)
            self._inode = _inode(path)
            logger.warning("the socket file %s was gone and has been made again", path)

    async def lost_peers(self) -> list[bytes]:
        while True:
            found: list[bytes] = []
            for fd in await self._closed_fds():
                found += self._peers.pop(fd, ())
            for peer in found:
                del self._fds[peer]
            if found:
                return found

    def quiet_s(self, peer: bytes) -> float | None:
        fd = self._fds.get(peer)
        return None if fd is None else quiet_s(fd)

    def _sender_of(self, first: zmq.Frame) -> str:
        if (peer := first.bytes) not in self._fds:
            # Fails for an ipc connection whose other end has no name; Pings then detect a loss.
            with contextlib.suppress(zmq.ZMQError):
                self._fds[peer] = fd = int(first.get(zmq.SRCFD))
                self._peers.setdefault(fd, set()).add(peer)
                retransmit_soon(fd)
        # Every part carries the key that its connection has proven in the handshake.
        return str(first.get("User-Id")) if self._has_keys else ""

    def send(self, peer: bytes, frames: Frames) -> None:
        try:
            self._send([peer, *frames])
        except zmq.Again as error:
            raise BackpressureError(peer) from error
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            raise PeerGoneError(peer) from error

    def close(self) -> None:
        path = ipc_path(self.endpoint)
        inode = None if path is None or self._socket.closed else _inode(path)
        # ZeroMQ does not remove the file; a file with another inode belongs to a successor.
        if path is not None and inode is not None and inode == self._inode:
            os.unlink(path)
        if self._next_check is not None:
            self._next_check.cancel()
        super().close()


class ZmqClient(ZmqEndpoint):
    """A connecting DEALER socket. It reconnects automatically, as a new peer of the server."""

    def __init__(
        self, socket: zmq.Socket[bytes], address: str, keys: ClientKeys | None = None
    ) -> None:
        super().__init__(socket)
        self._address = address
        self._keys = keys
        # Descriptor of the connection of the last message, while closings are watched.
        self._connection_fd: int | None = None

    def retry(self) -> None:
        # ZeroMQ abandons a session permanently when the other side refuses its handshake.
        self._check_open()
        with contextlib.suppress(zmq.ZMQError):
            self._socket.disconnect(self._address)
        if self._keys is not None and self._keys.next_server_key:
            swapped = self._keys.next_server_key, self._keys.server_key
            self._keys = replace(self._keys, server_key=swapped[0], next_server_key=swapped[1])
            for option, value in client_options(self._keys).items():
                self._socket.setsockopt(option, value)
        self._socket.connect(self._address)
        self._wake_waiters()

    def expect_key(self, next_key: str) -> None:
        # The announcing side has proven the key in use.
        if self._keys is not None:
            self._keys = replace(self._keys, next_server_key=next_key)
            self._keys.keep(self._keys.server_key, next_key)

    async def recv(self) -> Frames:
        frames, _ = await self._recv(MAX_FRAMES)
        return frames

    async def lost(self) -> None:
        await self._closed_fds()
        self._connection_fd = None

    def quiet_s(self) -> float | None:
        return None if self._connection_fd is None else quiet_s(self._connection_fd)

    def _sender_of(self, first: zmq.Frame) -> str:
        if self._monitor is not None and self._connection_fd is None:
            with contextlib.suppress(zmq.ZMQError):
                self._connection_fd = int(first.get(zmq.SRCFD))
                retransmit_soon(self._connection_fd)
        return ""

    async def writable(self) -> None:
        self._check_open()
        while not _get_int(self._socket, zmq.EVENTS) & zmq.POLLOUT:
            await self._wait_for(zmq.POLLOUT)

    def send(self, frames: Frames) -> None:
        try:
            self._send(frames)
        except zmq.Again as error:
            raise BackpressureError from error


def _inode(path: str) -> int | None:
    try:
        return os.lstat(path).st_ino
    except FileNotFoundError:
        return None


def _get_int(socket: zmq.Socket[bytes], option: int) -> int:
    return int(socket.getsockopt(option))
