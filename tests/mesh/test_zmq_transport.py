"""The ZeroMQ transport over ipc and tcp: messages, endings, endpoints; two real sockets each."""

import asyncio
import contextlib
import socket
import struct
import time

import pytest

from airdraft.mesh.errors import (
    AddressInUseError,
    BackpressureError,
    EndpointError,
    LocalProtocolError,
    PeerGoneError,
)
from airdraft.mesh.zmq_transport import ZmqContext
from tests.mesh.zmq_pairs import echo, greeted, is_gone, joined, running, send_when_room

# -- messages --------------------------------------------------------------------------------------


async def test_round_trip_waits_for_no_poll(context, endpoint, monkeypatch):
    server, client, _ = await joined(context, endpoint)
    loop = asyncio.get_running_loop()

    def never(when, callback, *arguments, context=None):
        """A timer that is never due: what would come by one does not come."""
        return asyncio.TimerHandle(when, callback, arguments, loop, context)

    async with asyncio.timeout(60.0), running(echo(server)):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "call_at", never)
            for _ in range(300):
                client.send([b"one", b"", b"x" * 60])
                assert await client.recv() == [b"one", b"", b"x" * 60]


async def test_thousands_both_ways_arrive_in_order(context, endpoint):
    server, client, peer = await joined(context, endpoint)
    num_messages = 5000

    async def blast(send):
        for i in range(num_messages):
            await send_when_room(send, [i.to_bytes(4, "little")])

    async def collect(receive):
        return [int.from_bytes((await receive())[0], "little") for _ in range(num_messages)]

    async def server_receive():
        return (await server.recv())[1]

    _, _, at_client, at_server = await asyncio.gather(
        blast(lambda frames: server.send(peer, frames)),
        blast(client.send),
        collect(client.recv),
        collect(server_receive),
    )
    assert at_client == at_server == list(range(num_messages))


async def test_a_send_does_not_hide_an_arrival(context, endpoint):
    """The edge of the descriptor may be eaten by our own send; the reader must wake anyway."""
    server, client, peer = await joined(context, endpoint)
    received = 0

    async def read():
        nonlocal received
        while True:
            await client.recv()
            received += 1

    async with asyncio.timeout(60.0), running(read()):
        for i in range(200):
            server.send(peer, [b"down"])
            while received <= i:
                # Hold the loop for a moment, so that the arrival meets a send.
                client.send([b"up"])
                await server.recv()
                await asyncio.sleep(0)


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


async def test_full_queues_push_back(context, endpoint):
    server, client, peer = await joined(context, endpoint)
    frames = [b"x" * 65536]

    def flood(send):
        """Send until there is no room; return the number of messages and the error."""
        for num_sent in range(20_000):
            try:
                send()
            except BackpressureError as error:
                return num_sent, error
        pytest.fail("there is room for 20,000 messages")

    num_sent, error = flood(lambda: server.send(peer, frames))
    assert error.peer == peer
    flood(lambda: client.send(frames))
    # Reading makes room again, and what was taken is all there.
    for _ in range(num_sent):
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


async def test_messages_of_too_many_frames_are_dropped(context, endpoint):
    server, client, peer = await joined(context, endpoint)
    client.send([b"1", b"2", b"3", b"4"])
    client.send([b"good"])
    assert await server.recv() == (peer, [b"good"], "")
    server.send(peer, [b"x"] * 9)
    server.send(peer, [b"good"])
    assert await client.recv() == [b"good"]


async def test_a_message_of_very_many_frames_costs_the_sender_its_connection(
    context, endpoint, eventually
):
    server, client, peer = await joined(context, endpoint)
    other = context.connect(server.endpoint)
    await other.writable()
    client.send([b"x"] * 1_000)
    other.send([b"next"])
    assert (await server.recv()).frames == [b"next"]
    # The long one may come after that.
    reading = asyncio.create_task(server.recv())
    await eventually(lambda: is_gone(server, peer))
    reading.cancel()


async def test_oversized_message_costs_the_sender_its_connection(context, endpoint, eventually):
    server, client, peer = await joined(context, endpoint)
    client.send([b"x" * (2**20 + 1)])
    await eventually(lambda: is_gone(server, peer))
    other = context.connect(server.endpoint)
    await other.writable()
    other.send([b"next"])
    assert (await server.recv()).frames == [b"next"]


# -- sockets that close, and peers and servers that go: told, with a limit, nothing left -----------


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


@pytest.mark.parametrize("what", ["messages", "losses"])
async def test_two_who_wait_are_a_bug_and_closing_under_one_is_loud(context, endpoint, what):
    server, client, _ = await joined(context, endpoint)
    waits = {"messages": (server.recv, client.recv), "losses": (server.lost_peers, client.lost)}
    waiting = [asyncio.ensure_future(wait()) for wait in waits[what]]
    await asyncio.sleep(0)
    for wait in waits[what]:
        with pytest.raises(LocalProtocolError, match="two tasks"):
            await wait()
    server.close()
    client.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [LocalProtocolError, LocalProtocolError]
    with pytest.raises(LocalProtocolError):
        client.send([b"x"])
    with pytest.raises(LocalProtocolError):
        await waits[what][0]()
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
            server = at_server.bind(f"ipc://{tmp_path}/mesh.sock")
            _deaf, peer = await greeted(server, at_client)
            idle_rounds = 0
            while idle_rounds < 100:  # until ZeroMQ's own queues and the kernel's are full too
                idle_rounds += 1
                with contextlib.suppress(BackpressureError):
                    while True:
                        server.send(peer, [b"x" * 8192])
                        idle_rounds = 0
                await asyncio.sleep(0.005)
            start = time.perf_counter()
        # What is queued was not read: it lingered, and came to an end.
        assert time.perf_counter() - start > 0.4


# -- endpoints that servers bind, the files they leave, and the options of their sockets ----------


def test_closing_removes_its_own_socket_file_if_it_is_there(context, tmp_path):
    path = tmp_path / "mesh.sock"
    server = context.bind(f"ipc://{path}")
    assert path.is_socket()
    server.close()
    assert not path.exists()
    server = context.bind(f"ipc://{path}")
    path.unlink()
    server.close()
    server = context.bind(f"ipc://{path}")
    path.rename(tmp_path / "moved")
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(path))
        server.close()
        assert path.is_socket()


async def test_a_socket_file_that_somebody_removed_is_made_again(context, tmp_path):
    path = tmp_path / "run" / "mesh.sock"
    path.parent.mkdir()
    server, client, peer = await joined(context, f"ipc://{path}")
    path.unlink()
    path.parent.rmdir()
    later = context.connect(server.endpoint)
    async with asyncio.timeout(20):
        await later.writable()
        later.send([b"hello"])
        assert (await server.recv())[1] == [b"hello"]
        # Whoever was connected is so still.
        server.send(peer, [b"still here"])
        assert await client.recv() == [b"still here"]
    server.close()
    assert not path.exists()


async def test_a_living_endpoint_is_in_use_and_stays_usable(context, endpoint):
    server, client, _ = await joined(context, endpoint)
    with ZmqContext() as other, pytest.raises(AddressInUseError) as caught:
        other.bind(server.endpoint)
    text = str(caught.value)
    assert server.endpoint in text
    assert "\n" not in text
    client.send([b"still here"])
    assert (await server.recv())[1] == [b"still here"]


def test_a_plain_file_is_never_replaced_and_an_unusable_endpoint_says_so(context, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("dear diary")
    with pytest.raises(AddressInUseError):
        context.bind(f"ipc://{path}")
    assert path.read_text() == "dear diary"
    with pytest.raises(EndpointError, match="endpoint"):
        context.bind("ipc:///no/such/folder/mesh.sock")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
async def test_kernel_picks_a_port(context, host):
    if host == "[::1]" and not _has_ipv6():
        pytest.skip("no IPv6 here")
    server, _, _ = await joined(context, f"tcp://{host}:0")
    assert int(server.endpoint.rsplit(":", 1)[1]) > 0


def _has_ipv6():
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(("::1", 9)) != 99


# Of asm-generic/socket.h, which Python does not name.
_SO_RCVBUFFORCE = 33


async def test_packets_of_interactive_links_are_marked():
    """As they go over the loopback device: looked at there, which takes root."""
    try:
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    except PermissionError:
        pytest.skip("raw sockets are not allowed here")
    with wire, ZmqContext() as at_server, ZmqContext() as at_client:
        # Other tests send over the same device at the same time.
        wire.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 26)
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
