"""The server over raw sockets: what a connection may cost, before and after it has shown a key."""

import asyncio
import contextlib
import json
from pathlib import Path

import h11
import pytest

from airdraft.nodes.gateway.connections.connection import Connection
from airdraft.nodes.gateway.connections.parser import Parser
from airdraft.nodes.gateway.connections.strangers import Strangers
from tests.nodes.gateway.fake_mesh import Eventually, FakeMesh, text_answer
from tests.nodes.gateway.served import connected, request, talking

BODY = json.dumps({"prompt": "hi"}).encode()


HEALTH = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"

KEYED = {"api_key": "ad-1", "require_keys": True}
CHUNKS = request(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")


def with_key(asked: bytes) -> bytes:
    return asked.replace(b"\r\n\r\n", b"\r\nauthorization: Bearer ad-1\r\n\r\n", 1)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The sizes of the pieces of bodies that were parsed, in a list for each turn of the loop."""
    turns, next_event = [list[int]()], Parser.next_event

    def recorded(parser: Parser) -> object:
        event = next_event(parser)
        if isinstance(event, h11.Data):
            if not turns[-1]:
                asyncio.get_running_loop().call_soon(turns.append, [])
            turns[-1].append(len(event.data))
        return event

    monkeypatch.setattr(Parser, "next_event", recorded)
    return turns


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (CHUNKS, 401),
        (request(b"", length=10**6), 401),
        (with_key(CHUNKS).replace(b"/v1/completions", b"/none"), 404),
        (with_key(CHUNKS).replace(b"POST", b"PUT"), 405),
        (with_key(CHUNKS).replace(b"localhost", b"a.example"), 421),
        (with_key(CHUNKS).replace(b"application/json", b"text/plain"), 415),
        (with_key(request(b"", length=10**9)), 413),
        (CHUNKS.replace(b"POST /v1/completions", b"GET /healthz"), 200),
    ],
)
async def test_a_body_that_nobody_asks_for_is_not_parsed_and_does_not_destroy_the_answer(
    tmp_path: Path, parsed: list[list[int]], asked: bytes, status: int
) -> None:
    async with talking(FakeMesh(), tmp_path, allowed_hosts="localhost", **KEYED) as (_, raw):
        await raw.send(asked + b"1\r\na\r\n" * 50_000)
        found = await raw.rest()
        assert found.startswith(b"HTTP/1.1 %d " % status)
        assert found.count(b"HTTP/1.1 ") == 1
        assert b"\r\nconnection: close\r\n" in found
        assert parsed == [[]]


async def test_who_is_refused_may_not_go_on_for_ever(
    tmp_path: Path, eventually: Eventually
) -> None:
    async with talking(FakeMesh(), tmp_path, limits={"max_body_bytes": 1024}) as (server, raw):
        await raw.send(request(b"", length=10**9))
        assert b" 413 " in await raw.until(b"\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                await raw.send(b"a" * 10_000)
        await eventually(lambda: server.http.num_connections == 0)
    async with talking(FakeMesh(), tmp_path) as (server, raw):
        await raw.send(request(b"", length=10**9))
        assert b" 413 " in await raw.rest()
        # It has been told that nothing more comes, and it says nothing.
        await eventually(lambda: server.http.num_connections == 0)


async def test_small_chunks_are_parsed_a_few_in_a_turn(
    tmp_path: Path, parsed: list[list[int]]
) -> None:
    async with talking(FakeMesh(text_answer("a")), tmp_path) as (_, raw):
        chunks = b"".join(b"1\r\n%c\r\n" % letter for letter in BODY + b" " * 900)
        await raw.send(CHUNKS + chunks + b"0\r\n\r\n" + HEALTH)
        await raw.until(b'"text":"a"')
        await raw.until(b'{"status":"ok"}')
        assert max(map(len, parsed)) <= 64
        assert sum(map(len, parsed)) == len(BODY) + 900


async def test_too_many_small_chunks_are_refused(
    tmp_path: Path, parsed: list[list[int]], eventually: Eventually
) -> None:
    async with talking(FakeMesh(), tmp_path) as (server, raw):
        await raw.send(CHUNKS + b"1\r\n \r\n" * 20_000)
        answer = await raw.rest()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"too many small pieces" in answer
        assert sum(map(len, parsed)) < 2000
        await eventually(lambda: not server.http.gateway.running)


async def test_a_turn_reads_little_of_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, received = list[int](), Connection.data_received

    def recorded(connection: Connection, data: bytes) -> None:
        sizes.append(len(data))
        received(connection, data)

    monkeypatch.setattr(Connection, "data_received", recorded)
    async with talking(FakeMesh(text_answer("a")), tmp_path) as (_, raw):
        large = json.dumps({"prompt": "hi", "user": "a", "x": "y" * 1_000_000}).encode()
        await raw.send(request(large))
        await raw.until(b'"text":"a"')
    assert sum(sizes) > len(large)
    assert max(sizes) <= 16_384


@pytest.mark.parametrize(
    ("asked", "first"), [(with_key(request(BODY)), b"100 Continue"), (request(BODY), b"401 ")]
)
async def test_who_waits_before_the_body_is_told_to_go_on_only_if_it_is_wanted(
    tmp_path: Path, asked: bytes, first: bytes
) -> None:
    head, _, body = asked.partition(b"\r\n\r\n")
    async with talking(FakeMesh(text_answer("a")), tmp_path, **KEYED) as (_, raw):
        await raw.send(head + b"\r\nexpect: 100-continue\r\n\r\n")
        assert (await raw.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 " + first)
        await raw.send(body)
        if first.startswith(b"100"):
            await raw.until(b'"text":"a"')
        else:
            assert b"HTTP/1.1" not in await raw.rest()


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (b"a:\r\n" * 3000, b"more than 128 headers"),
        (b"a:" + b" " * 15_000 + b"\0\r\n", b"control character"),
        (b"a: b\nc: d\r\n", b"control character"),
        (b"transfer-encoding: chunked\r\n", b"Transfer-Encoding"),
    ],
)
async def test_headers_that_cost_much_or_are_read_in_two_ways_are_refused(
    tmp_path: Path, headers: bytes, reason: bytes
) -> None:
    mesh = FakeMesh(text_answer("a"))
    async with talking(mesh, tmp_path) as (_, raw):
        await raw.send(request(BODY).replace(b"\r\n\r\n", b"\r\n" + headers + b"\r\n", 1))
        answer = await raw.rest()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert reason in answer
        assert mesh.asked == []


async def test_an_address_has_only_so_many_connections_without_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Strangers, "origin", lambda _self, _host: (4, 1))
    limits = {"max_strangers_per_address": 2}
    async with (
        talking(FakeMesh(), tmp_path, limits=limits, **KEYED) as (server, known),
        connected(server) as other,
    ):
        models = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
        await known.send(with_key(models))
        await known.until(b"toy-1")
        async with connected(server) as stranger:
            # Public routes and wrong keys make nobody known.
            for asked in (HEALTH, models, with_key(models).replace(b"ad-1", b"ad-2")):
                await stranger.send(asked)
                await stranger.until(b"}")
            async with connected(server) as refused:
                await refused.send(with_key(models))
                answer = await refused.rest()
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"from your address" in answer
            await other.send(with_key(models))
            await other.until(b"toy-1")
            # One is known now, so there is room for another.
            async with connected(server) as welcome:
                await welcome.send(HEALTH)
                await welcome.until(b"ok")
    assert "an address may have 2" in caplog.text
