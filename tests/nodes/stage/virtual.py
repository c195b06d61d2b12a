"""Stages and a target in one thread, on links in virtual time whose connections break."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from airdraft.mesh.errors import BackpressureError, PeerGoneError
from airdraft.mesh.transport import Frames, Received
from airdraft.nodes.engine.protocol import EngineError, EngineInfo, Rows
from airdraft.nodes.engine.split.last import StageLostError
from airdraft.nodes.messages.stages import StageCommand, StagePiece
from airdraft.nodes.stage.asking import StageAddress
from airdraft.nodes.stage.chain import Chain, Link
from airdraft.nodes.stage.node import StageNode
from airdraft.nodes.stage.outgoing import PartFiles
from airdraft.nodes.stage.parts import Part
from tests.nodes.stage.scene import Files

# What an engine's thread is asked for takes up to so long.
_MOST_WORK_S = 0.03
_RECONNECT_S = 0.1
# The coordinator takes a target whose passes do not end for stuck.
_STUCK_S = 30.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time goes on when nothing else is left to do. Threads are none: what they
    would do is done in the loop, after a time, and in order for each executor."""

    def __init__(self, drawn: random.Random) -> None:
        self._now, self._drawn = 100.0, drawn
        self._free_at: dict[Any, float] = {}
        super().__init__(_Clock(self))

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        """The time for who measures what a pass takes: it has gone on each time that it is read."""
        self._now += _MOST_WORK_S
        return self._now

    def go_on(self, seconds: float) -> None:
        self._now += seconds

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        future = self.create_future()
        due = max(self._now, self._free_at.get(executor, 0.0))
        due += self._drawn.uniform(1e-6, _MOST_WORK_S)
        self._free_at[executor] = due

        def run() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:  # noqa: BLE001 - handed to who waits
                future.set_exception(error)

        self.call_at(due, run)
        return future


class _Clock(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "nothing is left that could happen"
        # Each turn of a loop takes some time.
        self._loop.go_on(max(timeout, 1e-6))
        return super().select(0)


@dataclass(slots=True)
class Weather:
    """How links are. lost, repeated, late: chances that a message is, which ZeroMQ does not do
    within a connection. told: the chance that the end of a connection is noticed at once."""

    drawn: random.Random
    delay_s: float = 0.005
    lost: float = 0.0
    repeated: float = 0.0
    late: float = 0.0
    told: float = 0.7

    @property
    def is_orderly(self) -> bool:
        return not (self.lost or self.repeated or self.late)

    def delays(self) -> list[float]:
        """Returns after how many seconds a message arrives, each time that it does."""
        if self.drawn.random() < self.lost:
            return []
        copies = 2 if self.drawn.random() < self.repeated else 1
        return [self.drawn.uniform(0.0, self.delay_s) for _ in range(copies)]


class Connection:
    def __init__(self, peer: bytes, client: Client) -> None:
        self.peer, self.client = peer, client
        self.is_broken = False
        self._due = {"up": 0.0, "down": 0.0}

    def carry(self, way: str, weather: Weather, take: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()

        def arrive() -> None:
            if not self.is_broken:
                take()

        for delay_s in weather.delays():
            due = loop.time() + delay_s
            if weather.drawn.random() < weather.late:
                due += weather.drawn.uniform(0.0, 3.0)
            else:
                # None overtakes those before it.
                self._due[way] = due = max(due, self._due[way] + 1e-9)
            loop.call_at(due, arrive)


class Client:
    """Implements ClientTransport: of a target's link to a stage."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.inbox: asyncio.Queue[Frames] = asyncio.Queue()
        self.losses: asyncio.Queue[None] = asyncio.Queue()
        self.connection: Connection | None = None
        self.is_closed = False
        self.connect()

    def connect(self) -> None:
        if not self.is_closed and self.connection is None:
            self.connection = self._place.accept(self)
            if self.connection is None:
                self._place.loop.call_later(_RECONNECT_S, self.connect)

    async def recv(self) -> Frames:
        return await self.inbox.get()

    async def lost(self) -> None:
        await self.losses.get()

    def quiet_s(self) -> float | None:
        return None

    def send(self, frames: Frames) -> None:
        connection, server = self.connection, self._place.server
        if connection is None or server is None:
            raise BackpressureError
        received = Received(connection.peer, frames)
        take = server.inbox.put_nowait
        connection.carry("up", self._place.weather, lambda: take(received))

    def retry(self) -> None: ...

    def close(self) -> None:
        self.is_closed = True
        self._place.cut(self)


class Server:
    """Implements ServerTransport: of a stage's process."""

    endpoint = "virtual"

    def __init__(self, place: Place) -> None:
        self._place = place
        self.inbox: asyncio.Queue[Received] = asyncio.Queue()
        self.losses: asyncio.Queue[bytes] = asyncio.Queue()
        self.connections: dict[bytes, Connection] = {}

    async def recv(self) -> Received:
        return await self.inbox.get()

    async def lost_peers(self) -> list[bytes]:
        return [await self.losses.get()]

    def quiet_s(self, peer: bytes) -> float | None:
        return None

    def send(self, peer: bytes, frames: Frames) -> None:
        connection = self.connections.get(peer)
        if connection is None or connection.is_broken:
            raise PeerGoneError(peer)
        take = connection.client.inbox.put_nowait
        connection.carry("down", self._place.weather, lambda: take(frames))

    def close(self) -> None: ...


class Place:
    """Where a stage is: its process, which may be gone, and the connections to it."""

    def __init__(self, loop: VirtualLoop, name: str, file: Path, weather: Weather) -> None:
        self.loop, self.name, self.weather = loop, name, weather
        self._file = file
        self._peers = count(1)
        self.server: Server | None = None
        self._process: asyncio.Task[None] | None = None
        self.is_over = False
        self.clients: list[Client] = []
        self.start()

    def start(self) -> None:
        if self.server is None and not self.is_over:
            self.server = Server(self)
            parts = Files(self._file, None, 1 << 30)
            node = StageNode(self.server, parts, lambda _key: True)
            self._process = self.loop.create_task(node.run())

    def kill(self) -> None:
        """End the process; nothing that it has to say is heard any more."""
        if self.server is None:
            return
        assert self._process is not None
        self.server = None
        self._process.cancel()
        for client in self.clients:
            self.cut(client)

    def accept(self, client: Client) -> Connection | None:
        if self.server is None:
            return None
        connection = Connection(b"%s %d" % (self.name.encode(), next(self._peers)), client)
        self.server.connections[connection.peer] = connection
        if client not in self.clients:
            self.clients.append(client)
        return connection

    def cut(self, client: Client) -> None:
        """Break a connection. Each side notices it soon or not at all; the client's comes again."""
        connection, client.connection = client.connection, None
        if connection is None:
            return
        connection.is_broken = True
        drawn, server = self.weather.drawn, self.server
        if server is not None:
            server.connections.pop(connection.peer, None)
            if drawn.random() < self.weather.told:
                self._soon(server.losses.put_nowait, connection.peer)
        if client.is_closed:
            self.clients.remove(client)
            return
        if drawn.random() < self.weather.told:
            self._soon(client.losses.put_nowait, None)
        self._soon(client.connect)

    def _soon(self, act: Callable[..., object], *args: Any) -> None:
        self.loop.call_later(self.weather.drawn.uniform(0.0, _RECONNECT_S), act, *args)

    async def ended(self) -> None:
        """End for good."""
        self.is_over = True
        self.kill()
        assert self._process is not None
        with suppress(asyncio.CancelledError):
            await self._process


class VirtualChain:
    """Implements RunningChain in the loop of the stages."""

    def __init__(
        self, places: Sequence[Place], parts: Sequence[Part], stages: Sequence[StageAddress]
    ) -> None:
        self._loop, self._weather = places[0].loop, places[0].weather
        self._finished: asyncio.Queue[Rows | StageLostError] = asyncio.Queue()
        self._clients = [Client(place) for place in places]
        links = [
            Link(stage.name, part, client)
            for stage, part, client in zip(stages, parts, self._clients, strict=True)
        ]
        self.chain = Chain(links, PartFiles(None, lambda *_: None), self._finished.put_nowait)

    def open(self, info: EngineInfo, limit_s: float) -> int:
        return self._loop.run_until_complete(self.chain.open(info, limit_s))

    def begin(
        self, commands: tuple[StageCommand, ...], pieces: tuple[StagePiece, ...], rows: bytes
    ) -> None:
        self._loop.call_soon(self.chain.begin, commands, pieces, rows)

    def finish(self) -> Rows | StageLostError:
        async def next_one() -> Rows | StageLostError:
            async with asyncio.timeout(_STUCK_S):
                return await self._finished.get()

        try:
            return self._loop.run_until_complete(next_one())
        except TimeoutError as error:
            assert not self._weather.is_orderly, "a pass does not end"
            raise EngineError("a stage is lost, and nobody knows it") from error

    def close(self) -> None:
        async def end() -> None:
            self.chain.close()
            # What it says goes out before its connections are closed.
            await asyncio.sleep(0.1)

        self._loop.run_until_complete(end())
        self.vanish()

    def vanish(self) -> None:
        """As if the target's process was killed."""
        for client in self._clients:
            client.close()
        # What it says goes nowhere.
        self.chain.close()
