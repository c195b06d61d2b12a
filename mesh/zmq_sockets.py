"""ZeroMQ sockets as transports: one that binds and one that connects."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from typing import Final

import zmq

from airdraft.mesh.accepting import AcceptGate
from airdraft.mesh.endpoints import ipc_path
from airdraft.mesh.errors import BackpressureError, PeerGoneError
from airdraft.mesh.tcp import cut, quiet_s, retransmit_soon
from airdraft.mesh.transport import MAX_FRAMES, Frames, Received
from airdraft.mesh.unread import BarredKeys, Unread
from airdraft.mesh.zmq_endpoint import ZmqEndpoint, ZmqMonitor

logger = logging.getLogger(__name__)

# Asking the kernel takes 5 us for each connection, so the interval grows with their number.
_CHECK_S_A_CONNECTION: Final = 1e-4


class ZmqServer(ZmqEndpoint):
    """A bound ROUTER socket. Peers are the routing ids that it has drawn itself."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        endpoint: str,
        monitor: ZmqMonitor,
        unread: Unread,
        barred: BarredKeys,
        *,
        has_keys: bool,
        is_inherited: bool,
    ) -> None:
        super().__init__(socket)
        self._monitor = monitor
        self._unread = unread
        self._barred = barred
        # The key that was proven over each descriptor.
        self._keys: dict[int, str] = {}
        self._has_keys = has_keys
        self.endpoint = endpoint
        # The file of an inherited socket must be removed by the process that created it.
        self._path = None if is_inherited else ipc_path(endpoint)
        self._inode = None if self._path is None else _closed_to_others(self._path)
        # The descriptor over which each peer has sent; several peers share one that the kernel has
        # reused.
        self._fds: dict[bytes, int] = {}
        # The bind has been reported already.
        monitor.read()
        self.listening_fd = lambda: monitor.listening_fd
        self._gate = AcceptGate(self.listening_fd)
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
        self._check_unread()
        wait_s = max(self._gate.check(loop.time()), _CHECK_S_A_CONNECTION * len(self._unread))
        self._next_check = loop.call_later(wait_s, self._check_files)

    def _check_unread(self) -> None:
        """Cut the connection that is furthest ahead if too much is unread. Its key is barred."""
        fd = self._unread.find_furthest()
        if fd is not None:
            self._cut(fd, "it sent far more than could be read")

    def _sent_too_many(self, first: zmq.Frame) -> None:
        # Unless it has closed its connection meanwhile.
        if (fd := self._fds.get(first.bytes)) is not None:
            self._cut(fd, "it sent a message of very many frames")

    def _cut(self, fd: int, why: str) -> None:
        key = self._keys.pop(fd, "")
        whose = f" of the key {key}, which is refused for a minute" if key else ""
        logger.warning("cut a connection%s: %s", whose, why)
        if key:
            self._barred.add(key)
        self._unread.closed(fd)
        cut(fd)

    def _restore_socket_file(self) -> None:
        """Bind again if the socket file is gone, for example with the runtime directory of a user
        who has logged out. Connections stay, but there would be no new ones."""
        path = self._path
        if path is None or os.path.lexists(path):
            return
        # It is tried again later: the directory may not be there yet.
        with contextlib.suppress(OSError, zmq.ZMQError):
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            self._socket.bind(self.endpoint)
            self._inode = _closed_to_others(path)
            logger.warning("the socket file %s was gone and has been made again", path)

    async def lost_peers(self) -> list[bytes]:
        while True:
            closed = set(await self._closed_fds())
            found = [peer for peer, fd in self._fds.items() if fd in closed]
            for peer in found:
                self._keys.pop(self._fds.pop(peer), None)
            if found:
                return found

    def quiet_s(self, peer: bytes) -> float | None:
        fd = self._fds.get(peer)
        return None if fd is None else quiet_s(fd)

    def _sender_of(self, first: zmq.Frame) -> str:
        if (peer := first.bytes) not in self._fds:
            # Fails for an ipc connection whose other end has no name; Pings then detect a loss.
            with contextlib.suppress(zmq.ZMQError):
                self._fds[peer] = int(first.get(zmq.SRCFD))
                retransmit_soon(self._fds[peer])
        # Every part carries the key that its connection has proven in the handshake.
        return str(first.get("User-Id")) if self._has_keys else ""

    def _note_read(self, first: zmq.Frame, parts: list[bytes]) -> None:
        fd = self._fds.get(first.bytes)
        if fd is None:
            return
        # The first part is the sender's routing id, which ZeroMQ adds.
        self._unread.note_read(fd, map(len, parts[1:]))
        if self._has_keys and fd not in self._keys:
            self._keys[fd] = str(first.get("User-Id"))

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
        # ZeroMQ does not remove the file; a file with another inode belongs to a successor.
        path = None if self._socket.closed else self._path
        if path is not None and self._inode is not None and _inode(path) == self._inode:
            os.unlink(path)
        if self._next_check is not None:
            self._next_check.cancel()
        super().close()


class ZmqClient(ZmqEndpoint):
    """A connecting DEALER socket. It reconnects automatically, as a new peer of the server."""

    def __init__(self, socket: zmq.Socket[bytes], address: str) -> None:
        super().__init__(socket)
        self._address = address
        # Descriptor of the connection of the last message, while closings are watched.
        self._connection_fd: int | None = None

    def retry(self) -> None:
        # ZeroMQ abandons a session permanently when the other side refuses its handshake.
        self._check_open()
        with contextlib.suppress(zmq.ZMQError):
            self._socket.disconnect(self._address)
        self._socket.connect(self._address)
        self._wake_waiters()

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
        """Wait until the socket is connected and its queue is not full. One task only."""
        await self._wait_for(zmq.POLLOUT)

    def send(self, frames: Frames) -> None:
        try:
            self._send(frames)
        except zmq.Again as error:
            raise BackpressureError from error


def _closed_to_others(path: str) -> int | None:
    """Take the permissions for other users from a new socket file; returns its inode.

    With a umask of 0 every user of the machine could connect, and there are no keys.
    """
    os.chmod(path, os.lstat(path).st_mode & 0o770)
    return _inode(path)


def _inode(path: str) -> int | None:
    try:
        return os.lstat(path).st_ino
    except FileNotFoundError:
        return None
