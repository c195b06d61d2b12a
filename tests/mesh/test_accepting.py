"""Connections are accepted while there are file descriptors left, and wait while there are none."""

import asyncio
import contextlib
import os
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from airdraft.mesh.accepting import (
    RESERVED_FILES,
    SCARCE_FILES,
    AcceptGate,
    Accepting,
    Watch,
    files_left,
)
from airdraft.mesh.zmq_sockets import ZmqServer
from airdraft.mesh.zmq_transport import ZmqContext

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")

Eventually = Callable[..., Awaitable[None]]


@contextlib.contextmanager
def files_for(count: int) -> Iterator[None]:
    """This process may open so many files more, and no others."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The highest may be that of the directory itself, which is closed again by now.
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    with contextlib.ExitStack() as stack:
        # Lower numbers that are free count, too.
        while (lowest_free := os.open(os.devnull, os.O_RDONLY)) < highest:
            stack.callback(os.close, lowest_free)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + count, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextlib.asynccontextmanager
async def listening(server: ZmqServer):
    """The transport is read, as a coordinator does, and its gate works."""
    reading = asyncio.create_task(server.recv())
    try:
        yield
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def test_the_listening_socket_is_found_and_its_door_is_open_with_files_enough(
    context: ZmqContext, endpoint: str, eventually: Eventually
) -> None:
    fd = context.bind(endpoint).listening_fd()
    await eventually(lambda: Watch.of(fd))
    found = Watch.of(fd)
    assert found is not None
    for event_mask, is_on in ((0, False), (1, True)):
        found.set(event_mask)
        assert found.is_on == is_on
    assert Watch.of(0) is None
    gate = AcceptGate(lambda: fd)
    for now in range(3):
        gate.check(float(now))
    assert gate.accepting is Accepting.OPEN


async def test_new_connections_wait_for_files_and_present_ones_stay(
    eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    with ZmqContext() as context, contextlib.ExitStack() as sockets:
        server = context.bind("tcp://127.0.0.1:0")
        friend = context.connect(server.endpoint)
        await friend.writable()
        await eventually(lambda: Watch.of(server.listening_fd()))
        watch = Watch.of(server.listening_fd())
        assert watch is not None
        # Made before there are none for it.
        address = ("127.0.0.1", int(server.endpoint.rsplit(":")[-1]))
        stranger = sockets.enter_context(socket.create_connection(address))
        stranger.setblocking(False)
        greeted = asyncio.get_running_loop().sock_recv(stranger, 1)
        assert await greeted == b"\xff"
        late = sockets.enter_context(socket.socket())
        late.setblocking(False)
        async with listening(server):
            with files_for(RESERVED_FILES):
                await eventually(lambda: not watch.is_on)
                assert "new connections have to wait" in caplog.text
                late.connect_ex(address)
                # Served as before.
                friend.send([b"here"])
            await eventually(lambda: watch.is_on)
            assert await asyncio.get_running_loop().sock_recv(late, 1) == b"\xff"


def test_a_free_file_below_the_others_is_not_taken_for_many(context: ZmqContext) -> None:
    """As after a connection of the first hour has ended."""
    gate = AcceptGate(context.bind("tcp://127.0.0.1:0").listening_fd)
    gate.prepare()
    early = os.open(os.devnull, os.O_RDONLY)
    with files_for(RESERVED_FILES - 1):
        os.close(early)
        assert files_left() == RESERVED_FILES
        gate.check(0.0)
        assert gate.accepting is Accepting.SHUT
    gate.check(1.0)
    assert gate.accepting is Accepting.OPEN


async def test_scarce_files_are_given_one_by_one(eventually: Eventually) -> None:
    with ZmqContext() as context, contextlib.ExitStack() as sockets:
        # Nobody reads from it, so that its own gate does nothing.
        server = context.bind("tcp://127.0.0.1:0")
        gate = AcceptGate(server.listening_fd)
        gate.prepare()
        address = ("127.0.0.1", int(server.endpoint.rsplit(":")[-1]))
        callers = [sockets.enter_context(socket.socket()) for _ in range(SCARCE_FILES)]

        def is_shut() -> bool:
            gate.check(asyncio.get_running_loop().time())
            return gate.accepting is Accepting.SHUT

        with files_for(RESERVED_FILES + 8):
            assert not is_shut()
            assert gate.accepting is Accepting.ONE_BY_ONE
            for caller in callers:
                caller.setblocking(False)
                caller.connect_ex(address)
            await eventually(is_shut)
            # A burst has not taken what is reserved.
            assert files_left() == RESERVED_FILES


async def test_a_socket_that_was_bound_anew_is_watched_instead_of_the_first(
    eventually: Eventually, tmp_path: Path
) -> None:
    with ZmqContext() as context:
        server = context.bind(f"ipc://{tmp_path}/mesh.sock")
        first = server.listening_fd()
        losing = asyncio.create_task(server.lost_peers())
        async with listening(server):
            (tmp_path / "mesh.sock").unlink()
            await eventually(lambda: server.listening_fd() != first)
            await eventually(lambda: Watch.of(server.listening_fd()))
            watch = Watch.of(server.listening_fd())
            assert watch is not None
            with files_for(RESERVED_FILES):
                await eventually(lambda: not watch.is_on)
            await eventually(lambda: watch.is_on)
        losing.cancel()
        await asyncio.gather(losing, return_exceptions=True)
