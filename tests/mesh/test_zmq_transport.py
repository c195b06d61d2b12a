"""ZeroMQ transports over ipc and tcp, two real sockets in every test."""

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
import time
from pathlib import Path

import pytest
import zmq

from mesh.errors import (
    AddressInUseError,
    BackpressureError,
    EndpointError,
    LocalProtocolError,
    PeerGoneError,
)
from mesh.zmq_transport import ZmqContext


@pytest.fixture(params=["ipc", "tcp"])
def endpoint(request, tmp_path):
    return f"ipc://{tmp_path}/mesh.sock" if request.param == "ipc" else "tcp://127.0.0.1:0"


@pytest.fixture
def context():
    with ZmqContext() as context:
        yield context


@contextlib.asynccontextmanager
async def running(*coroutines):
    """Run loops beside a test, and let none outlive it or die unnoticed."""
    tasks = [asyncio.ensure_future(c) for c in coroutines]
    try:
        yield
        assert not any(t.done() for t in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def echo(server):
    while True:
        peer, frames, _ = await server.recv()
        server.send(peer, frames)


async def joined(context, endpoint):
    """A server, a client, and the client's peer id there."""
    server = context.bind(endpoint)
    client = context.connect(server.endpoint)
    await client.writable()
    client.send([b"hello"])
    peer, frames, _ = await server.recv()
    assert frames == [b"hello"]
    return server, client, peer


async def send_when_room(send, frames):
    while True:
        try:
            return send(frames)
        except BackpressureError:
            await asyncio.sleep(0)


async def test_echo_keeps_frames_and_counts_them(context, endpoint):
    server, client, peer = await joined(context, endpoint)
    async with running(echo(server)):
        client.send([b"one", b"", b"three"])
        assert await client.recv() == [b"one", b"", b"three"]
    assert (client.messages_sent, client.bytes_sent) == (2, 5 + 8)
    assert (client.messages_received, client.bytes_received) == (1, 8)
    assert (server.messages_received, server.bytes_received) == (2, 13)
    assert (server.messages_sent, server.bytes_sent) == (1, 8)
    assert peer


async def test_round_trip_waits_for_no_poll(context, endpoint):
    server, client, _ = await joined(context, endpoint)
    times_s = []
    async with running(echo(server)):
        for _ in range(300):
            start = time.perf_counter()
            client.send([b"x" * 60])
            await client.recv()
            times_s.append(time.perf_counter() - start)
    assert sorted(times_s)[150] < 0.005, "p50; about 0.2 ms on an idle machine"


async def test_thousands_both_ways_arrive_in_order_and_at_once(context, endpoint):
    server, client, peer = await joined(context, endpoint)
    num_messages = 5000

    async def blast(send):
        for i in range(num_messages):
            await send_when_room(send, [i.to_bytes(4, "little")])

    async def collect(receive):
        return [int.from_bytes((await receive())[0], "little") for _ in range(num_messages)]

    async def server_receive():
        return (await server.recv())[1]

    start = time.perf_counter()
    _, _, at_client, at_server = await asyncio.gather(
        blast(lambda frames: server.send(peer, frames)),
        blast(client.send),
        collect(client.recv),
        collect(server_receive),
    )
    assert at_client == at_server == list(range(num_messages))
    assert time.perf_counter() - start < 5


async def test_a_send_does_not_hide_an_arrival(context, endpoint):
    """The edge of the descriptor may be eaten by our own send; the reader must wake anyway."""
    server, client, peer = await joined(context, endpoint)
    received = 0

    async def read():
        nonlocal received
        while True:
            await client.recv()
            received += 1

    async with running(read()):
        for i in range(200):
            server.send(peer, [b"down"])
            give_up_at = time.perf_counter() + 1
            while received <= i:
                # Hold the loop for a moment, so that the arrival meets a send.
                client.send([b"up"])
                await server.recv()
                await asyncio.sleep(0)
                assert time.perf_counter() < give_up_at


async def test_cancelled_receives_lose_nothing(context, endpoint):
    server, client, _ = await joined(context, endpoint)
    num_messages, got = 300, []

    async def blast():
        for i in range(num_messages):
            client.send([b"%d" % i])
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(blast())
        while len(got) < num_messages:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.0002):
                    got.append(int((await server.recv())[1][0]))
    assert got == list(range(num_messages))


async def test_a_flood_lets_other_tasks_run(context, endpoint):
    server, client, _ = await joined(context, endpoint)
    for _ in range(800):
        client.send([b"x"])
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with running(other()):
        for _ in range(800):
            await server.recv()
    assert turns >= 20


async def test_unknown_and_departed_peers_are_gone(context, endpoint, eventually):
    server, client, peer = await joined(context, endpoint)
    with pytest.raises(PeerGoneError) as caught:
        server.send(b"nobody", [b"x"])
    assert caught.value.peer == b"nobody"
    client.close()

    def is_gone():
        try:
            server.send(peer, [b"x"])
        except PeerGoneError:
            return True
        return False

    await eventually(is_gone)


async def test_full_queues_push_back(context, endpoint):
    server, client, peer = await joined(context, endpoint)
    frames = [b"x" * 65536]

    def flood(send):
        for _ in range(20_000):
            send()

    with pytest.raises(BackpressureError) as caught:
        flood(lambda: server.send(peer, frames))
    assert caught.value.peer == peer
    with pytest.raises(BackpressureError):
        flood(lambda: client.send(frames))
    # Reading makes room again, and what was taken is all there.
    for _ in range(server.messages_sent):
        assert await client.recv() == frames
    server.send(peer, [b"last"])
    assert await client.recv() == [b"last"]


async def test_without_a_connection_there_is_no_room(context, tmp_path):
    client = context.connect(f"ipc://{tmp_path}/nobody.sock")
    with pytest.raises(BackpressureError):
        client.send([b"x"])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.writable()


async def test_client_finds_a_restarted_server_as_a_new_peer(context, tmp_path):
    endpoint = f"ipc://{tmp_path}/mesh.sock"
    server, client, peer = await joined(context, endpoint)
    server.close()
    server = context.bind(endpoint)
    while True:
        await client.writable()
        with contextlib.suppress(BackpressureError):
            client.send([b"again"])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                new_peer, frames, _ = await server.recv()
                break
    assert frames == [b"again"]
    with pytest.raises(PeerGoneError):
        server.send(peer, [b"x"])
    server.send(new_peer, [b"y"])
    assert await client.recv() == [b"y"]


async def test_too_many_frames_are_rejected_and_counted(context, endpoint):
    server, client, peer = await joined(context, endpoint)
    client.send([b"1", b"2", b"3", b"4"])
    client.send([b"good"])
    assert await server.recv() == (peer, [b"good"], "")
    assert server.messages_rejected == 1
    server.send(peer, [b"x"] * 9)
    server.send(peer, [b"good"])
    assert await client.recv() == [b"good"]
    assert client.messages_rejected == 1


async def test_oversized_message_costs_the_sender_its_connection(context, endpoint, eventually):
    server, client, peer = await joined(context, endpoint)
    client.send([b"x" * (2**20 + 1)])

    def is_gone():
        try:
            server.send(peer, [b"x"])
        except PeerGoneError:
            return True
        return False

    await eventually(is_gone)
    assert server.messages_received == 1


async def test_two_readers_are_a_bug(context, endpoint):
    server, _client, _ = await joined(context, endpoint)
    async with running(server.recv()):
        await asyncio.sleep(0)
        with pytest.raises(LocalProtocolError):
            await server.recv()


async def test_closing_under_a_reader_is_loud(context, endpoint):
    server, client, _ = await joined(context, endpoint)
    readers = [asyncio.ensure_future(server.recv()), asyncio.ensure_future(client.recv())]
    await asyncio.sleep(0)
    server.close()
    client.close()
    results = await asyncio.gather(*readers, return_exceptions=True)
    assert [type(r) for r in results] == [LocalProtocolError, LocalProtocolError]
    with pytest.raises(LocalProtocolError):
        client.send([b"x"])
    with pytest.raises(LocalProtocolError):
        await server.recv()
    server.close()


async def test_last_words_arrive_though_the_context_closes(tmp_path):
    endpoint = f"ipc://{tmp_path}/mesh.sock"
    with ZmqContext() as at_server:
        server = at_server.bind(endpoint)
        with ZmqContext() as at_client:
            client = at_client.connect(endpoint)
            await client.writable()
            client.send([b"bye"])
        assert (await server.recv())[1] == [b"bye"]


async def test_closing_with_an_unread_queue_has_a_limit(tmp_path):
    """With ZMTP heartbeats this aborts the whole process, in the half second of lingering."""
    with ZmqContext() as at_client:
        with ZmqContext() as at_server:
            endpoint = f"ipc://{tmp_path}/mesh.sock"
            server, _client, peer = await joined(at_server, endpoint)
            deaf = at_client.connect(endpoint)
            await deaf.writable()
            deaf.send([b"hello"])
            peer, *_ = await server.recv()
            idle_rounds = 0
            while idle_rounds < 10:  # until ZeroMQ's own queues and the kernel's are full too
                idle_rounds += 1
                with contextlib.suppress(BackpressureError):
                    while True:
                        server.send(peer, [b"x" * 8192])
                        idle_rounds = 0
                await asyncio.sleep(0.005)
            start = time.perf_counter()
        assert 0.4 < time.perf_counter() - start < 2


def test_socket_file_goes_at_close(context, tmp_path):
    path = tmp_path / "mesh.sock"
    server = context.bind(f"ipc://{path}")
    assert path.is_socket()
    server.close()
    assert not path.exists()


def test_closing_leaves_a_successors_file(context, tmp_path):
    path = tmp_path / "mesh.sock"
    server = context.bind(f"ipc://{path}")
    path.rename(tmp_path / "moved")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        server.close()
        assert path.is_socket()


def test_closing_bears_a_file_that_is_gone(context, tmp_path):
    path = tmp_path / "mesh.sock"
    server = context.bind(f"ipc://{path}")
    path.unlink()
    server.close()


async def test_socket_file_of_a_killed_process_is_replaced(context, tmp_path):
    path = tmp_path / "mesh.sock"
    script = (
        "import os, signal, sys; from mesh.zmq_transport import ZmqContext;"
        "ZmqContext().bind(sys.argv[1]); os.kill(os.getpid(), signal.SIGKILL)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, f"ipc://{path}", cwd=Path(__file__).parents[2]
    )
    assert await process.wait() == -signal.SIGKILL
    assert path.is_socket()
    await joined(context, f"ipc://{path}")


async def test_a_living_endpoint_is_in_use_and_stays_usable(context, endpoint):
    server, client, _ = await joined(context, endpoint)
    with ZmqContext() as other, pytest.raises(AddressInUseError) as caught:
        other.bind(server.endpoint)
    assert caught.value.endpoint == server.endpoint
    text = str(caught.value)
    assert server.endpoint in text
    assert "\n" not in text
    client.send([b"still here"])
    assert (await server.recv())[1] == [b"still here"]


def test_a_plain_file_is_never_replaced(context, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("dear diary")
    with pytest.raises(AddressInUseError):
        context.bind(f"ipc://{path}")
    assert path.read_text() == "dear diary"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
async def test_kernel_picks_a_port(context, host):
    if host == "[::1]" and not _has_ipv6():
        pytest.skip("no IPv6 here")
    server, _, _ = await joined(context, f"tcp://{host}:0")
    assert int(server.endpoint.rsplit(":", 1)[1]) > 0


def _has_ipv6():
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(("::1", 9)) != 99


def test_an_unusable_endpoint_says_so(context):
    with pytest.raises(EndpointError, match="endpoint"):
        context.bind("ipc:///no/such/folder/mesh.sock")


def test_sockets_have_the_options_that_the_facts_ask_for(context, tmp_path):
    server = context.bind(f"ipc://{tmp_path}/mesh.sock")
    client = context.connect(server.endpoint)
    for transport in (server, client):
        options = transport._socket
        assert options.getsockopt(zmq.MAXMSGSIZE) == 2**20
        assert options.getsockopt(zmq.LINGER) == 500
        assert options.getsockopt(zmq.HEARTBEAT_IVL) == 0, "it aborts the process"
        assert options.getsockopt(zmq.ROUTING_ID) == b""
    assert client._socket.getsockopt(zmq.IMMEDIATE) == 1


def test_context_closes_twice_and_leaves_no_descriptors(tmp_path):
    with ZmqContext() as warm_up:
        warm_up.connect(warm_up.bind("tcp://127.0.0.1:0").endpoint)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with ZmqContext() as context:
            context.connect(context.bind(f"ipc://{tmp_path}/mesh.sock").endpoint)
        context.close()
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_packets_of_interactive_links_are_marked():
    """As they go over the loopback device: looked at there, which takes root."""
    try:
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    except PermissionError:
        pytest.skip("raw sockets are not allowed here")
    with wire, ZmqContext() as at_server, ZmqContext() as at_client:
        wire.bind(("lo", 0))
        wire.setblocking(False)
        server = at_server.bind("tcp://127.0.0.1:0", interactive=True)
        port = int(server.endpoint.rpartition(":")[2])
        client = at_client.connect(server.endpoint, interactive=True)
        await client.writable()
        client.send([b"there"])
        server.send((await server.recv()).peer, [b"and back"])
        await client.recv()
        marks = {port: set(), 0: set()}
        with contextlib.suppress(BlockingIOError):
            while True:
                packet = wire.recv(2048)[14:]
                source, target = struct.unpack("!HH", packet[20:24])
                # With data: headers are 20 bytes of IP and at most 60 of TCP.
                if port in (source, target) and len(packet) > 80:
                    marks[port if source == port else 0].add(packet[1])
        assert marks == {port: {0xA0}, 0: {0xA0}}
