"""Who stops, and who is cut off, over real sockets; and how they come back."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

from mesh.codec import decode, encode
from mesh.messages import PROTOCOL_VERSION, Hello, Pong, Welcome
from mesh.zmq_transport import ZmqClient, ZmqContext
from nodes.client.client import Client
from nodes.config.settings import EngineSettings
from nodes.coordinator.service import Coordinator
from nodes.service.local import node_command
from nodes.worker.link import Link
from tests.nodes.builders import make_submit
from tests.nodes.memory_mesh import Eventually, status_once


@contextlib.asynccontextmanager
async def serving(
    timeout_s: float, endpoint: str = "tcp://127.0.0.1:0"
) -> AsyncIterator[Coordinator]:
    with ZmqContext() as context:
        coordinator = Coordinator(
            context.bind(endpoint),
            heartbeat_interval_s=0.1,
            heartbeat_timeout_s=timeout_s,
        )
        task = asyncio.create_task(coordinator.run())
        try:
            yield coordinator
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Wire:
    """A TCP proxy whose connections can be cut off without being closed; new ones are whole.

    piece_s: how long each 4 KiB takes.
    """

    def __init__(self, endpoint: str, piece_s: float = 0.0) -> None:
        self._piece_s = piece_s
        self._port = int(endpoint.rpartition(":")[2])
        self._passing = asyncio.Event()
        self._passing.set()
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

    def cut(self) -> Callable[[], None]:
        """Let nothing pass on the connections there are; call what this gives to mend them."""
        passing, self._passing = self._passing, asyncio.Event()
        self._passing.set()
        passing.clear()
        return passing.set

    async def _connected(self, reader: Any, writer: Any) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        for source, sink in ((reader, there_writer), (there_reader, writer)):
            pump = asyncio.create_task(self._pump(source, sink, self._passing))
            self._pumps.add(pump)

    async def _pump(self, source: Any, sink: Any, passing: asyncio.Event) -> None:
        with contextlib.closing(sink), contextlib.suppress(ConnectionError):
            while True:
                await passing.wait()
                data = await source.read(4096)
                await asyncio.sleep(self._piece_s * len(data) / 4096)
                await passing.wait()
                if not data:
                    return
                sink.write(data)


class Node:
    """A member that only keeps its membership."""

    def __init__(self, transport: ZmqClient, endpoint: str) -> None:
        self.num_joins = 0
        self.messages: list[Any] = []
        self.link = Link(transport, self, endpoint=endpoint, node="n", role="client")

    def on_joined(self, _welcome: Welcome) -> None:
        self.num_joins += 1

    def on_message(self, message: Any) -> None:
        self.messages.append(message)


@contextlib.asynccontextmanager
async def joined(context: ZmqContext, endpoint: str, eventually: Eventually) -> AsyncIterator[Node]:
    node = Node(context.connect(endpoint), endpoint)
    task = asyncio.create_task(node.link.run())
    try:
        await eventually(lambda: node.link.is_joined)
        yield node
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def join(context: ZmqContext, endpoint: str) -> tuple[ZmqClient, Any]:
    """The same process as before, over another connection."""
    client = context.connect(endpoint)
    await client.writable()
    client.send(encode(Hello("n", "client", 7, PROTOCOL_VERSION, b"")))
    return client, decode(await client.recv())


async def test_a_process_that_was_stopped_finds_out_and_its_old_messages_change_nothing(
    eventually: Eventually,
) -> None:
    # Long enough for a busy machine not to lose a process that runs.
    async with serving(timeout_s=2.0) as coordinator:
        state = coordinator.state

        def is_in() -> bool:
            return "target" in state.roster.roles().values()

        process = await asyncio.create_subprocess_exec(
            *node_command("target", coordinator.endpoint, EngineSettings(model="toy:1")),
            stdin=asyncio.subprocess.PIPE,
        )
        with ZmqContext() as context:
            client = Client(context.connect(coordinator.endpoint), endpoint=coordinator.endpoint)
            asking = asyncio.create_task(client.run())
            try:
                # Once it answers: before, it might say Hello once more.
                await status_once(client, lambda s: [n.rtt_s for n in s.nodes if n.rtt_s] != [])
                process.send_signal(signal.SIGSTOP)
                await eventually(lambda: not is_in())
                num_stale = state.reporting.num_stale
                process.send_signal(signal.SIGCONT)
                await eventually(is_in)
                # It answered Pings of a membership that was over, and then learnt that it was.
                assert state.reporting.num_stale > num_stale
                process.send_signal(signal.SIGKILL)
                await eventually(lambda: not is_in())
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                assert process.stdin is not None
                process.stdin.close()
                await process.wait()


async def test_who_comes_over_another_connection_is_let_in_though_the_first_is_believed_in(
    eventually: Eventually,
) -> None:
    async with serving(timeout_s=100.0) as coordinator, Wire(coordinator.endpoint) as wire:
        with ZmqContext() as context:
            first, joined = await join(context, wire.endpoint)
            (old_peer,) = coordinator.state.roster.peers()
            mend = wire.cut()
            second, rejoined = await join(context, wire.endpoint)
            assert isinstance(rejoined.message, Welcome)
            (new_peer,) = coordinator.state.roster.peers()
            assert new_peer != old_peer
            # What the first one had still to say comes too late.
            num_stale = coordinator.state.reporting.num_stale
            first.send(encode(Pong(0, 0), cluster=joined.cluster, epoch=joined.epoch))
            mend()
            await eventually(lambda: coordinator.state.reporting.num_stale > num_stale)
            assert coordinator.state.roster.peers() == [new_peer]
            second.close()
            await eventually(lambda: not coordinator.state.roster.peers())


async def test_a_member_leaves_a_connection_that_nothing_comes_over(
    eventually: Eventually,
) -> None:
    async with serving(timeout_s=0.5) as coordinator, Wire(coordinator.endpoint) as wire:
        with ZmqContext() as context:
            async with joined(context, wire.endpoint, eventually) as node:
                wire.cut()
                await eventually(lambda: not node.link.is_joined)
                await eventually(lambda: node.num_joins >= 2)
                await eventually(lambda: len(coordinator.state.roster.peers()) == 1)


async def test_who_sends_a_large_message_over_a_slow_link_is_not_silent(
    eventually: Eventually,
) -> None:
    async with (
        serving(timeout_s=2.0) as coordinator,
        Wire(coordinator.endpoint, piece_s=0.15) as wire,
    ):
        with ZmqContext() as context:
            async with joined(context, wire.endpoint, eventually) as node:
                # Some four seconds, in which nothing else of this member comes.
                node.link.send(make_submit(prompt="x" * 120_000))
                await eventually(lambda: node.messages)
                assert node.num_joins == 1


async def test_a_coordinator_that_ends_and_begins_anew_is_noticed_and_found(
    eventually: Eventually,
) -> None:
    with ZmqContext() as context:
        async with contextlib.AsyncExitStack() as stack:
            async with serving(timeout_s=100.0) as coordinator:
                endpoint = coordinator.endpoint
                node = await stack.enter_async_context(joined(context, endpoint, eventually))
            await eventually(lambda: not node.link.is_joined)
            await stack.enter_async_context(serving(timeout_s=100.0, endpoint=endpoint))
            await eventually(lambda: node.num_joins == 2)
