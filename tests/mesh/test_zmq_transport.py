"""Messages of the ZeroMQ transport over ipc and tcp, two real sockets in every test."""

import asyncio
import contextlib

import pytest

from mesh.errors import BackpressureError
from tests.mesh.zmq_pairs import echo, is_gone, joined, running, send_when_room


async def test_echo_keeps_frames(context, endpoint):
    server, client, _ = await joined(context, endpoint)
    async with running(echo(server)):
        client.send([b"one", b"", b"three"])
        assert await client.recv() == [b"one", b"", b"three"]


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
                client.send([b"x" * 60])
                assert await client.recv() == [b"x" * 60]


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


async def test_oversized_message_costs_the_sender_its_connection(context, endpoint, eventually):
    server, client, peer = await joined(context, endpoint)
    client.send([b"x" * (2**20 + 1)])
    await eventually(lambda: is_gone(server, peer))
    other = context.connect(server.endpoint)
    await other.writable()
    other.send([b"next"])
    assert (await server.recv()).frames == [b"next"]
