"""The server over raw sockets: what half a request, and half a reader, can do."""

import asyncio
import contextlib
import gc
import json
import socket
import struct
import weakref
from pathlib import Path

import pytest

from airdraft.nodes.gateway.connections.connection import Connection
from airdraft.nodes.messages import PromptLogprobsNotice
from tests.nodes.gateway.fake_mesh import (
    Eventually,
    FakeMesh,
    finished,
    scored,
    started,
    text_answer,
    tokens,
)
from tests.nodes.gateway.served import (
    connected,
    reading_nothing,
    recorded_connections,
    request,
    serving,
    talking,
)

BODY = json.dumps({"prompt": "hi"}).encode()
STREAM = json.dumps({"prompt": "hi", "stream": True}).encode()
SHORT = {"header_timeout_s": 0.2, "body_timeout_s": 0.2}


HEALTH = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
ROOT = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
HALVES = [
    b"",
    b"GET /v1/models HT",
    b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx: ",
    request(b"", length=100),
    request(BODY, length=1000),
]
NO_REQUESTS = [
    b"\x16\x03\x01\x02\x00\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x: " + b"y" * 20_000,
]


@pytest.mark.parametrize(
    ("before", "said", "status", "code"),
    [
        *((b"", half, 408, "request_timeout") for half in HALVES),
        # In one piece with a request that is answered.
        *((HEALTH, half, 408, "request_timeout") for half in HALVES[1:]),
        *((b"", bad, 400, None) for bad in NO_REQUESTS),
    ],
)
async def test_who_does_not_send_a_whole_request_is_closed(
    tmp_path: Path, before: bytes, said: bytes, status: int, code: str | None
) -> None:
    mesh = FakeMesh(text_answer("a"))
    async with talking(mesh, tmp_path, limits=SHORT) as (server, raw):
        await raw.send(before + said)
        _, *others, answer = (await raw.rest()).split(b"HTTP/1.1 ")
        assert len(others) == bool(before)
        assert answer.startswith(f"{status} ".encode())
        assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == code
        assert mesh.asked == []
        assert len(server.http.gateway.running) == 0


@pytest.mark.parametrize("start", [b"GET /v1/models HTTP/1.1\r\nx: ", request(b"", length=10**6)])
async def test_who_drips_is_closed_all_the_same(tmp_path: Path, start: bytes) -> None:
    async with talking(FakeMesh(), tmp_path, limits=SHORT) as (server, raw):
        await raw.send(start)
        reading = asyncio.create_task(raw.rest())
        while not reading.done():
            try:
                await raw.send(b"x")
            except ConnectionError:
                break
            await asyncio.wait({reading}, timeout=0.02)
        answer = await reading
        # What drips in behind it may take the answer away again.
        assert answer == b"" or answer.startswith(b"HTTP/1.1 408 ")
        assert len(server.http.gateway.running) == 0


@pytest.mark.slow
async def test_a_slow_answer_is_not_half_a_request_and_the_next_has_its_own_time(
    tmp_path: Path,
) -> None:
    gate = asyncio.Event()
    mesh = FakeMesh([started(), gate, *text_answer("a")[1:]])
    limits = {"header_timeout_s": 1.0, "body_timeout_s": 1.0}
    async with talking(mesh, tmp_path, limits=limits) as (_, raw):
        await raw.send(request(BODY))
        asyncio.get_running_loop().call_later(2.0, gate.set)
        assert b"200 OK" in await raw.until(b"\r\n\r\n")
        await raw.send(HEALTH[:9])
        assert b"HTTP/1.1 408 " in await raw.rest()


async def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    async with talking(FakeMesh(), tmp_path, limits={"keep_alive_s": 1}) as (_, raw):
        await raw.send(HEALTH)
        assert (await raw.rest()).endswith(b'{"status":"ok"}')


async def test_a_connection_that_was_reset_is_not_held_until_it_would_have_been_idle(
    tmp_path: Path, eventually: Eventually
) -> None:
    def present() -> list[Connection]:
        gc.collect()
        return [thing for thing in gc.get_objects() if isinstance(thing, Connection)]

    # Those of other tests may still be there.
    others = weakref.WeakSet(present())

    def is_any_left() -> bool:
        return any(connection not in others for connection in present())

    async with serving(FakeMesh(), tmp_path, limits={"keep_alive_s": 3600}) as server:
        async with connected(server) as raw:
            raw_socket: socket.socket = raw.writer.get_extra_info("socket")
            # Closing without lingering sends a reset.
            raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await raw.send(HEALTH)
            await raw.until(b"ok")
            assert is_any_left()
        await eventually(lambda: not is_any_left())


async def test_there_are_only_so_many_connections(tmp_path: Path) -> None:
    async with talking(FakeMesh(), tmp_path, limits={"max_connections": 1}) as (server, first):
        await first.send(HEALTH)
        await first.until(b"ok")
        # Who is refused learns it whatever else it sends.
        for asked in (request(BODY), request(b"x" * 200_000, length=400_000)):
            async with connected(server) as second:
                await second.send(asked)
                answer = await second.rest()
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"\r\nretry-after: 2\r\n" in answer
                assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "unavailable"
        # Who is in is served on.
        await first.send(HEALTH)
        await first.until(b"ok")


async def test_who_is_refused_and_says_nothing_does_not_stay(
    tmp_path: Path, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    async with talking(FakeMesh(), tmp_path, limits={"max_connections": 1}) as (server, _):
        await eventually(lambda: server.http.num_connections == 1)
        async with contextlib.AsyncExitStack() as stack:
            many = [await stack.enter_async_context(connected(server)) for _ in range(64)]
            # Of very many most are just closed: the last ones need not ask to learn it.
            await eventually(lambda: server.http.num_connections < 32)
            assert await many[-1].rest() == b""
            await eventually(lambda: server.http.num_connections == 1)
            assert await many[0].rest() == b""
    assert caplog.text.count("refusing connections: the limit is 1") == 1


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("more", [b"", b"\r\n", HEALTH], ids=["nothing", "line end", "request"])
@pytest.mark.parametrize("is_in_one", [True, False])
async def test_who_hangs_up_having_said_more_frees_the_request(
    tmp_path: Path, eventually: Eventually, body: bytes, more: bytes, is_in_one: bool
) -> None:
    mesh = FakeMesh([started(), asyncio.Event()])
    async with serving(mesh, tmp_path) as server:
        async with connected(server) as raw:
            await raw.send(request(body) + (more if is_in_one else b""))
            await eventually(lambda: mesh.num_open == 1)
            if not is_in_one:
                await raw.send(more)
                # It has come by the time that it is hung up.
                await asyncio.sleep(0.02)
        await eventually(lambda: mesh.num_cancelled == 1)
        await eventually(lambda: not server.http.gateway.running)


async def test_who_does_not_read_is_dropped_and_others_are_not(
    tmp_path: Path, eventually: Eventually
) -> None:
    mesh = FakeMesh(text_answer(*["x" * 1000] * 5000))
    async with serving(mesh, tmp_path) as server:
        async with reading_nothing(server, request(STREAM)):
            await eventually(lambda: mesh.num_cancelled == 1)
            await eventually(lambda: not server.http.gateway.running)
        async with connected(server, limit=1 << 24) as raw:
            await raw.send(request(STREAM))
            answer = await raw.until(b"data: [DONE]\n\n")
            assert answer.count(b"data: ") == 5002


async def test_one_large_event_is_not_too_much(tmp_path: Path, eventually: Eventually) -> None:
    """Who does not read it at once is not dropped for the small ones that come behind it."""
    whole = ["x" * 1_000_000, *"abc"]
    gate, last = asyncio.Event(), text_answer(*whole)
    mesh = FakeMesh([*last[:-1], gate, last[-1]])
    async with serving(mesh, tmp_path) as server:
        async with reading_nothing(server, request(STREAM)) as reader:
            await eventually(lambda: mesh.num_open == 1)
            gate.set()
            await eventually(lambda: mesh.num_open == 0)
            loop, told = asyncio.get_running_loop(), b""
            while b"[DONE]" not in told:
                part = await loop.sock_recv(reader, 1 << 20)
                assert part
                told = told[-10:] + part
        assert mesh.num_cancelled == 0


@pytest.mark.parametrize(
    ("what", "size"),
    [
        *((request(BODY), 4_000_000), (request(BODY) * 20, 400_000), (ROOT * 20, 0)),
        (request(STREAM), 400_000),
    ],
    ids=["one answer", "many answers", "many pages", "the end of a stream"],
)
async def test_answers_that_are_not_read_do_not_stay(
    tmp_path: Path, eventually: Eventually, what: bytes, size: int
) -> None:
    """They are more than the kernel's buffers have room for."""
    mesh = FakeMesh(text_answer("x" * size))
    limits = {"keep_alive_s": 3600, "write_timeout_s": 0.1}
    async with serving(mesh, tmp_path, limits=limits) as server, reading_nothing(server, what):
        await eventually(lambda: server.http.num_connections == 1)
        await eventually(lambda: server.http.num_connections == 0)
        await eventually(lambda: not server.http.gateway.running)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_long_answer_waits_for_a_slow_reader(tmp_path: Path, stream: bool) -> None:
    """It is made in parts, none of which has the room that one large event has."""
    num = 20_000
    body = {"prompt": [1] * num, "echo": True, "logprobs": 0, "max_tokens": 1, "stream": stream}
    scores = PromptLogprobsNotice(1, 1, (scored("x" * 60, -1.0),) * (num - 1))
    mesh = FakeMesh([started(num), scores, tokens("z", 0), finished(1)])
    async with (
        serving(mesh, tmp_path) as server,
        reading_nothing(server, request(json.dumps(body).encode())) as reader,
    ):
        loop, told = asyncio.get_running_loop(), bytearray()
        while not told.endswith(b"\r\n0\r\n\r\n"):
            part = await loop.sock_recv(reader, 65_536)
            assert part
            told += part
    assert told.count(b"x" * 60) >= 2 * (num - 1)
    assert mesh.num_cancelled == 0


async def test_who_reads_nothing_and_hangs_up_frees_the_request(
    tmp_path: Path, eventually: Eventually
) -> None:
    mesh = FakeMesh([started(), tokens("x" * 1_000_000, 0), asyncio.Event()])
    with recorded_connections() as made:
        async with (
            serving(mesh, tmp_path, limits={"write_timeout_s": 0.1}) as server,
            reading_nothing(server, request(STREAM)) as slow,
        ):
            await eventually(lambda: made and made[0].transport.get_write_buffer_size())
            slow.shutdown(socket.SHUT_WR)
            await eventually(lambda: mesh.num_cancelled == 1)
            await eventually(lambda: server.http.num_connections == 0)


async def test_requests_that_come_before_their_turn_are_answered_in_turn(tmp_path: Path) -> None:
    gate = asyncio.Event()
    mesh = FakeMesh([started(), gate, *text_answer("a")[1:]])
    async with talking(mesh, tmp_path) as (_, raw):
        # The second in one piece with the first, the others while that is answered.
        await raw.send(request(BODY) + HEALTH)
        asyncio.get_running_loop().call_later(0.1, gate.set)
        await raw.send(HEALTH[:20])
        await raw.send(HEALTH[20:] + request(BODY))
        text, healthy = b'"text":"a"', b'{"status":"ok"}'
        for expected, other in ((text, healthy), (healthy, text), (healthy, text), (text, healthy)):
            assert other not in await raw.until(expected)
