"""Runs the gateway's HTTP server in this process, on a port that the kernel chooses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airdraft.nodes.gateway.config import GatewayConfig, GatewayLimits
from airdraft.nodes.gateway.connections.connection import Connection
from airdraft.nodes.gateway.server import HttpServer


@dataclass(frozen=True, slots=True)
class Served:
    http: HttpServer
    task: asyncio.Task[None]


@contextlib.asynccontextmanager
async def serving(
    mesh: Any, tmp_path: Path, *, limits: dict[str, Any] | None = None, **changes: Any
) -> AsyncIterator[Served]:
    given = {"stop_timeout_s": 0.2, **(limits or {})}
    config = GatewayConfig(**{"listen": "127.0.0.1:0", "limits": GatewayLimits(**given), **changes})
    server = HttpServer(mesh, config, tmp_path)
    started = asyncio.Event()
    task = asyncio.create_task(server.serve(started.set))
    try:
        await started.wait()
        yield Served(server, task)
        assert not task.done() or task.cancelled(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def talking(
    mesh: Any, tmp_path: Path, **changes: Any
) -> AsyncIterator[tuple[Served, RawConnection]]:
    """A server, and a connection to it."""
    async with serving(mesh, tmp_path, **changes) as server, connected(server) as raw:
        yield server, raw


@contextlib.contextmanager
def recorded_connections() -> Iterator[list[Connection]]:
    """All connections that any server of this process gets meanwhile."""
    made, connection_made = list[Connection](), Connection.connection_made

    def recorded(connection: Connection, transport: asyncio.Transport) -> None:
        made.append(connection)
        connection_made(connection, transport)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "connection_made", recorded)
        yield made


def port_of(server: Served) -> int:
    return int(server.http.url.rsplit(":", 1)[1].removesuffix("/v1"))


class RawConnection:
    """Bytes over a socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def until(self, data: bytes) -> bytes:
        return await self.reader.readuntil(data)

    async def rest(self) -> bytes:
        """Everything until the server closes; what is under way is lost if it aborts."""
        found = b""
        with contextlib.suppress(ConnectionError):
            while part := await self.reader.read(65_536):
                found += part
        return found


@contextlib.asynccontextmanager
async def connected(server: Served, **options: Any) -> AsyncIterator[RawConnection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server), **options)
    try:
        yield RawConnection(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def reading_nothing(server: Served, data: bytes) -> AsyncIterator[socket.socket]:
    """A client with a small buffer, which sends this and reads nothing."""
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(slow, ("127.0.0.1", port_of(server)))
        await loop.sock_sendall(slow, data)
        yield slow


def request(body: bytes, path: str = "/v1/completions", length: int | None = None) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body) if length is None else length}\r\n\r\n"
    ).encode() + body
