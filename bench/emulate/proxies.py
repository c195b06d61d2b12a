"""TCP proxies between the stations of a cell and its hub, all of which are this machine."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence

from bench.emulate.cell import DOWN, UP, Direction
from bench.harness.processes import Places

LOOPBACK = Places.hub_host
Pump = Callable[
    [Direction, asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]
]


class Proxies(Places, ABC):
    """A server for each station and port of the hub. `_link` serves their connections."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._servers: dict[tuple[str, int], asyncio.Server] = {}
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def num_connections(self) -> int:
        return len(self._connections)

    async def dial(self, station: str, port: int) -> tuple[str, int]:
        """Returns host and port at which a station reaches a port of the hub through its proxy."""

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._connections.add(task)
            # Only end_connections() cancels it; asyncio would log a cancelled handler as failed.
            with contextlib.suppress(asyncio.CancelledError):
                await self._connect(station, port, reader, writer)
            self._connections.discard(task)

        if (station, port) not in self._servers:
            server = await asyncio.start_server(connected, LOOPBACK, 0)
            self._servers[station, port] = server
        host, own_port = self._servers[station, port].sockets[0].getsockname()
        return host, own_port

    async def end_connections(self) -> None:
        """End all present connections; new ones may be made."""
        ended = list(self._connections)
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)

    async def aclose(self) -> None:
        for server in self._servers.values():
            server.close()
        await self.end_connections()

    async def _connect(
        self, station: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve one connection until both directions have ended or either side has closed it."""
        writers, pump = [writer], self._link(station)
        try:
            hub_reader, hub_writer = await asyncio.open_connection(LOOPBACK, port)
            writers.append(hub_writer)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(pump(UP, reader, hub_writer))
                pumps.create_task(pump(DOWN, hub_reader, writer))
        except* OSError:
            self._broken(writers)
        finally:
            for each in writers:
                each.close()

    def _broken(self, writers: Sequence[asyncio.StreamWriter]) -> None:
        """Do what a broken connection needs before its sides are closed, which notifies them."""

    @abstractmethod
    def _link(self, station: str) -> Pump:
        """Returns what passes on both directions of a connection that begins now, to their ends."""
