"""A server and its clients in one process, for tests; same contract as ZeroMQ's."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import count

from airdraft.mesh.errors import BackpressureError, LocalProtocolError, PeerGoneError
from airdraft.mesh.transport import MAX_FRAMES, MAX_QUEUED_MESSAGES, Frames, Received


class _Inbox:
    """A bounded queue with one reader, and an end that the reader notices."""

    def __init__(self) -> None:
        self.items: deque[Received] = deque()
        self.closed = False
        self._changed = asyncio.Event()

    @property
    def is_full(self) -> bool:
        return len(self.items) >= MAX_QUEUED_MESSAGES

    async def get(self) -> Received:
        # Even with mail waiting the other tasks get their turn, as with a socket.
        await asyncio.sleep(0)
        while not self.closed and not self.items:
            self._changed.clear()
            await self._changed.wait()
        if self.closed:
            raise LocalProtocolError("the transport is closed")
        return self.items.popleft()

    def put(self, item: Received) -> None:
        self.items.append(item)
        self._changed.set()

    def close(self) -> None:
        self.closed = True
        self._changed.set()


class _Endpoint:
    def __init__(self, hub: MemoryHub, key: str = "") -> None:
        self.key = key
        self._hub = hub
        self.inbox = _Inbox()
        self.losses = _Inbox()

    def lose(self, peer: bytes) -> None:
        """Tell whoever waits for it that a connection was closed."""
        self.losses.put(Received(peer, []))

    async def _get(self) -> Received:
        while True:
            received = await self.inbox.get()
            if 1 <= len(received.frames) <= MAX_FRAMES:
                return received

    def _put(self, inbox: _Inbox, peer: bytes, frames: Frames) -> None:
        if self.inbox.closed:
            raise LocalProtocolError("the transport is closed")
        if inbox.closed or inbox.is_full:
            raise BackpressureError(peer)
        if self._hub.drop is None or not self._hub.drop(frames):
            inbox.put(Received(peer, list(frames), self.key))


class MemoryServer(_Endpoint):
    """The binding side of a hub."""

    def __init__(self, hub: MemoryHub, endpoint: str) -> None:
        super().__init__(hub)
        self.endpoint = endpoint

    async def recv(self) -> Received:
        return await self._get()

    async def lost_peers(self) -> list[bytes]:
        first = await self.losses.get()
        more = list(self.losses.items)
        self.losses.items.clear()
        return [lost.peer for lost in (first, *more)]

    def quiet_s(self, peer: bytes) -> float | None:
        return self._hub.quiet_s

    def send(self, peer: bytes, frames: Frames) -> None:
        client = self._hub.client_of(self, peer)
        if client is None and not self.inbox.closed:
            raise PeerGoneError(peer)
        self._put(client.inbox if client else self.inbox, peer, frames)

    def close(self) -> None:
        self.inbox.close()
        self.losses.close()
        self._hub.server_closed(self)


class MemoryClient(_Endpoint):
    """A connecting side of a hub."""

    async def recv(self) -> Frames:
        return (await self._get()).frames

    async def lost(self) -> None:
        await self.losses.get()

    def quiet_s(self) -> float | None:
        return self._hub.quiet_s

    def send(self, frames: Frames) -> None:
        connection = self._hub.connection_of(self)
        if connection is None and not self.inbox.closed:
            raise BackpressureError
        peer, server = connection or (b"", self)
        self._put(server.inbox, peer, frames)

    def retry(self) -> None:
        """Nothing is ever refused here."""

    def close(self) -> None:
        self.inbox.close()
        self.losses.close()
        self._hub.client_closed(self)


class MemoryHub:
    """Joins one server to many clients.

    A new server() after the old one closed is a restart: living clients are connected to it,
    under new peer ids, and what was on its way is lost.
    drop: called with the frames of every message sent; True loses it silently.
    quiet_s: what every transport says of the other side.
    """

    def __init__(self) -> None:
        self.drop: Callable[[Frames], bool] | None = None
        self.quiet_s: float | None = None
        self._server: MemoryServer | None = None
        self._clients: dict[bytes, MemoryClient] = {}
        self._peer_numbers = count(1)

    def server(self) -> MemoryServer:
        if self._server is not None:
            raise LocalProtocolError("the hub has a server already")
        self._server = MemoryServer(self, "memory://hub")
        self._clients = {self._new_peer(): client for client in self._clients.values()}
        return self._server

    def client(self, key: str = "") -> MemoryClient:
        """key: the public key that it shall count as having proved to hold."""
        client = MemoryClient(self, key)
        self._clients[self._new_peer()] = client
        return client

    def disconnect(self, client: MemoryClient) -> None:
        """Break the client's connection: it comes back at once, as another peer."""
        self.client_closed(client)
        client.lose(b"")
        self._clients[self._new_peer()] = client

    def client_of(self, server: MemoryServer, peer: bytes) -> MemoryClient | None:
        return self._clients.get(peer) if server is self._server else None

    def connection_of(self, client: MemoryClient) -> tuple[bytes, MemoryServer] | None:
        if self._server is None:
            return None
        return next(((peer, self._server) for peer in self._peers_of(client)), None)

    def _peers_of(self, client: MemoryClient) -> list[bytes]:
        return [peer for peer, other in self._clients.items() if other is client]

    def server_closed(self, server: MemoryServer) -> None:
        if server is self._server:
            self._server = None
            for peer, client in self._clients.items():
                client.lose(peer)

    def client_closed(self, client: MemoryClient) -> None:
        for peer in self._peers_of(client):
            del self._clients[peer]
            if self._server is not None:
                self._server.lose(peer)

    def _new_peer(self) -> bytes:
        return next(self._peer_numbers).to_bytes(5, "big")
