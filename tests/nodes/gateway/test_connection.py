"""The server over raw sockets: what half a request, and half a reader, can do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from nodes.gateway.connection import MOST_REFUSED
from tests.nodes.gateway.fake_mesh import FakeMesh, started, text_answer, tokens
from tests.nodes.gateway.served import connected, port_of, request, serving

BODY = json.dumps({"prompt": "hi"}).encode()
STREAM = json.dumps({"prompt": "hi", "stream": True}).encode()
SHORT = {"header_timeout_s": 0.2, "body_timeout_s": 0.2}
Eventually = Callable[..., "asyncio.Future[None]"]


@pytest.mark.parametrize(
    "half",
    [
        b"",
        b"GET /v1/models HT",
        b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx: ",
        request(b"", length=100),
        request(BODY, length=1000),
    ],
)
async def test_who_does_not_send_the_rest_is_closed(tmp_path: Path, half: bytes) -> None:
    mesh = FakeMesh(text_answer("a"))
    async with serving(mesh, tmp_path, limits=SHORT) as server, connected(server) as raw:
        await raw.send(half)
        answer = await raw.rest()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "request_timeout"
        assert mesh.asked == []
        assert len(server.http.gateway.running) == 0


@pytest.mark.parametrize("start", [b"GET /v1/models HTTP/1.1\r\nx: ", request(b"", length=10**6)])
async def test_who_drips_is_closed_all_the_same(tmp_path: Path, start: bytes) -> None:
    async with serving(FakeMesh(), tmp_path, limits=SHORT) as server, connected(server) as raw:
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
async def test_a_second_request_has_its_own_time(tmp_path: Path) -> None:
    limits = {"header_timeout_s": 2.0}
    async with serving(FakeMesh(), tmp_path, limits=limits) as server, connected(server) as raw:
        await raw.send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await raw.until(b'{"status":"ok"}')
        await raw.send(b"GET /heal")
        assert (await raw.rest()).startswith(b"HTTP/1.1 408 ")


@pytest.mark.slow
async def test_a_slow_answer_is_not_half_a_request(tmp_path: Path) -> None:
    gate = asyncio.Event()
    mesh = FakeMesh([started(), gate, *text_answer("a")[1:]])
    limits = {"header_timeout_s": 1.0, "body_timeout_s": 1.0}
    async with serving(mesh, tmp_path, limits=limits) as server, connected(server) as raw:
        await raw.send(request(BODY))
        asyncio.get_running_loop().call_later(2.0, gate.set)
        assert b"200 OK" in await raw.until(b"\r\n\r\n")


@pytest.mark.parametrize(
    "bad",
    [
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x: " + b"y" * 20_000,
    ],
)
async def test_what_is_no_request_is_refused(tmp_path: Path, bad: bytes) -> None:
    async with serving(FakeMesh(), tmp_path) as server, connected(server) as raw:
        await raw.send(bad)
        answer = await raw.rest()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert "error" in json.loads(answer.split(b"\r\n\r\n", 1)[1])


async def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    limits = {"keep_alive_s": 1}
    async with serving(FakeMesh(), tmp_path, limits=limits) as server, connected(server) as raw:
        await raw.send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert (await raw.rest()).endswith(b'{"status":"ok"}')


async def test_there_are_only_so_many_connections(tmp_path: Path) -> None:
    limits = {"max_connections": 1}
    async with serving(FakeMesh(), tmp_path, limits=limits) as server, connected(server) as first:
        await first.send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await first.until(b"ok")
        async with connected(server) as second:
            await second.send(request(BODY))
            answer = await second.rest()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nretry-after: 1\r\n" in answer
            assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "unavailable"
        # Who is in is served on.
        await first.send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await first.until(b"ok")


async def test_who_is_refused_and_says_nothing_does_not_stay(
    tmp_path: Path, eventually: Eventually
) -> None:
    limits = {"max_connections": 1}
    async with serving(FakeMesh(), tmp_path, limits=limits) as server, connected(server):
        await eventually(lambda: server.http.num_connections == 1)
        async with connected(server) as second:
            assert await second.rest() == b""
        await eventually(lambda: server.http.num_connections == 1)


async def test_who_is_refused_learns_it_whatever_else_it_sends(tmp_path: Path) -> None:
    limits = {"max_connections": 1}
    async with serving(FakeMesh(), tmp_path, limits=limits) as server, connected(server) as first:
        await first.send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await first.until(b"ok")
        async with connected(server) as second:
            await second.send(request(b"x" * 200_000, length=400_000))
            assert (await second.rest()).startswith(b"HTTP/1.1 503 ")


async def test_of_very_many_too_many_most_are_just_closed(
    tmp_path: Path, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    limits = {"max_connections": 1}
    async with serving(FakeMesh(), tmp_path, limits=limits) as server, connected(server):
        await eventually(lambda: server.http.num_connections == 1)
        async with contextlib.AsyncExitStack() as stack:
            many = [
                await stack.enter_async_context(connected(server)) for _ in range(MOST_REFUSED + 8)
            ]
            await eventually(lambda: server.http.num_connections == 1 + MOST_REFUSED)
            # The last ones need not ask to learn it.
            assert await many[-1].rest() == b""
        await eventually(lambda: server.http.num_connections == 1)
    assert caplog.text.count("refusing connections: the limit is 1") == 1


async def test_who_hangs_up_frees_the_request(tmp_path: Path, eventually: Eventually) -> None:
    for body in (BODY, STREAM):
        mesh = FakeMesh([started(), tokens("a", 0), asyncio.Event()])
        async with serving(mesh, tmp_path) as server:
            async with connected(server) as raw:
                await raw.send(request(body))
                await eventually(lambda mesh=mesh: mesh.num_open == 1)
            await eventually(lambda mesh=mesh: mesh.num_cancelled == 1)
            await eventually(lambda server=server: len(server.http.gateway.running) == 0)


@pytest.mark.parametrize("more", [b"\r\n", b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"])
@pytest.mark.parametrize("is_in_one", [True, False])
async def test_who_hangs_up_having_said_more_frees_the_request(
    tmp_path: Path, eventually: Eventually, more: bytes, is_in_one: bool
) -> None:
    mesh = FakeMesh([started(), tokens("a", 0), asyncio.Event()])
    async with serving(mesh, tmp_path) as server:
        async with connected(server) as raw:
            await raw.send(request(BODY) + (more if is_in_one else b""))
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
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(slow, ("127.0.0.1", port_of(server)))
            await loop.sock_sendall(slow, request(STREAM))
            await eventually(lambda: mesh.num_cancelled == 1)
            await eventually(lambda: not server.http.gateway.running)
        async with connected(server, limit=1 << 24) as raw:
            await raw.send(request(STREAM))
            answer = await raw.until(b"data: [DONE]\n\n")
            assert answer.count(b"data: ") == 5002


async def test_a_whole_answer_that_is_not_read_does_not_stay(
    tmp_path: Path, eventually: Eventually
) -> None:
    mesh = FakeMesh(text_answer("x" * 4_000_000))
    limits = {"keep_alive_s": 1, "write_timeout_s": 0.1}
    async with serving(mesh, tmp_path, limits=limits) as server:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(slow, ("127.0.0.1", port_of(server)))
            await loop.sock_sendall(slow, request(BODY))
            await eventually(lambda: server.http.num_connections == 1)
            await eventually(lambda: server.http.num_connections == 0)


@pytest.mark.parametrize("what", [request(BODY), b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"])
async def test_who_asks_again_and_reads_nothing_does_not_stay(
    tmp_path: Path, eventually: Eventually, what: bytes
) -> None:
    mesh = FakeMesh(text_answer("x" * 400_000))
    async with serving(mesh, tmp_path, limits={"write_timeout_s": 0.1}) as server:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(slow, ("127.0.0.1", port_of(server)))
            # More answers than the kernel's buffers have room for.
            await loop.sock_sendall(slow, what * 20)
            await eventually(lambda: server.http.num_connections == 1)
            await eventually(lambda: server.http.num_connections == 0)
            await eventually(lambda: not server.http.gateway.running)


async def test_requests_that_come_before_their_turn_are_answered_in_turn(tmp_path: Path) -> None:
    gate = asyncio.Event()
    mesh = FakeMesh([started(), gate, *text_answer("a")[1:]])
    health = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    async with serving(mesh, tmp_path) as server, connected(server) as raw:
        # The second in one piece with the first, the others while that is answered.
        await raw.send(request(BODY) + health)
        asyncio.get_running_loop().call_later(0.1, gate.set)
        await raw.send(health[:20])
        await raw.send(health[20:] + request(BODY))
        text, healthy = b'"text":"a"', b'{"status":"ok"}'
        for expected, other in ((text, healthy), (healthy, text), (healthy, text), (text, healthy)):
            assert other not in await raw.until(expected)


@pytest.mark.slow
async def test_a_body_that_nobody_wanted_begins_no_request(tmp_path: Path) -> None:
    limits = {"header_timeout_s": 1.0, "keep_alive_s": 3}
    async with serving(FakeMesh(), tmp_path, limits=limits) as server, connected(server) as raw:
        head = request(b"", length=len(BODY)).replace(b"application/json", b"text/plain")
        await raw.send(head)
        assert b" 415 " in await raw.until(b"\r\n\r\n")
        await raw.send(BODY)
        # The connection is idle now, and is closed as such: without a word.
        assert b"408" not in await raw.rest()
