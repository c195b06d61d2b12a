"""Over real sockets: who still sends is not silent, and who is cut off comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mesh.messages import Welcome
from mesh.zmq_transport import ZmqContext
from nodes.coordinator.service import Coordinator
from nodes.worker.link import Link
from tests.nodes.builders import make_submit
from tests.nodes.memory_mesh import Eventually

# They take as long as a member may be silent, and longer.
pytestmark = pytest.mark.slow


class Wire:
    """A TCP proxy whose connections can be cut off without being closed; new ones are whole.

    piece_s: how long each 4 KiB takes.
    """

    def __init__(self, endpoint: str, piece_s: float) -> None:
        self._piece_s = piece_s
        self._port = int(endpoint.rpartition(":")[2])
        self._is_cut = asyncio.Event()
        self._pumps: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.endpoint = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def cut(self) -> None:
        """Let nothing pass any more on the connections there are."""
        self._is_cut.set()
        self._is_cut = asyncio.Event()

    async def _connected(self, reader: Any, writer: Any) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        for source, sink in ((reader, there_writer), (there_reader, writer)):
            pump = asyncio.create_task(self._pump(source, sink, self._is_cut))
            self._pumps.add(pump)

    async def _pump(self, source: Any, sink: Any, is_cut: asyncio.Event) -> None:
        with contextlib.closing(sink), contextlib.suppress(ConnectionError):
            while data := await source.read(4096):
                await asyncio.sleep(self._piece_s * len(data) / 4096)
                if is_cut.is_set():
                    await asyncio.Event().wait()
                sink.write(data)


class Node:
    """A member that only keeps its membership."""

    def __init__(self, context: ZmqContext, endpoint: str) -> None:
        self.num_joins = 0
        self.messages: list[Any] = []
        transport = context.connect(endpoint)
        self.link = Link(transport, self, endpoint=endpoint, node="n", role="client")

    def on_joined(self, _welcome: Welcome) -> None:
        self.num_joins += 1

    def on_message(self, message: Any) -> None:
        self.messages.append(message)


@contextlib.asynccontextmanager
async def joined(
    eventually: Eventually, timeout_s: float, piece_s: float = 0.0
) -> AsyncIterator[tuple[Wire, Node]]:
    """A member of a coordinator, and the wire between them."""
    with ZmqContext() as ours, ZmqContext() as theirs:
        server = theirs.bind("tcp://127.0.0.1:0")
        times = {"heartbeat_interval_s": 0.1, "heartbeat_timeout_s": timeout_s}
        coordinator = Coordinator(server, **times)
        async with Wire(server.endpoint, piece_s) as wire:
            node = Node(ours, wire.endpoint)
            tasks = [asyncio.create_task(each.run()) for each in (coordinator, node.link)]
            try:
                await eventually(lambda: node.link.is_joined)
                yield wire, node
                assert not any(task.done() for task in tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_member_leaves_a_connection_that_nothing_comes_over(
    eventually: Eventually,
) -> None:
    async with joined(eventually, timeout_s=0.5) as (wire, node):
        wire.cut()
        await eventually(lambda: not node.link.is_joined)
        await eventually(lambda: node.num_joins >= 2)


async def test_who_sends_a_large_message_over_a_slow_link_is_not_silent(
    eventually: Eventually,
) -> None:
    async with joined(eventually, timeout_s=2.0, piece_s=0.15) as (_, node):
        # Some four seconds, in which nothing else of this member comes.
        node.link.send(make_submit(prompt="x" * 120_000))
        await eventually(lambda: node.messages)
        assert node.num_joins == 1
