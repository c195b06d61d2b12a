"""A cell of TCP proxies, sound and ailing: what arrives and is counted, and that all of it ends."""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from random import Random
from typing import Any

import pytest

from bench.emulate.cell import DOWN, UP, Cell, Counters, Path, Station
from bench.emulate.open import open_cell
from bench.emulate.proxies import Proxies
from bench.emulate.proxy import HEADER_BYTES, SEGMENT_BYTES, proxy_cell
from bench.emulate.toxics import HEALTHY, Toxic, ToxicState, toxic_cell
from bench.netns import NamespacesError

Received = asyncio.Queue[bytes]
HALVES = (0.5, 0.5)


def cell_of(shares: tuple[float, ...], **fields: Any) -> Cell:
    stations = tuple(Station(name=name, rate_bps=2e7, **fields) for name in ("a", "b"))
    return Cell(stations=stations, shares=shares, frame_s=0.0001)


@contextlib.asynccontextmanager
async def hub_of(answer: bytes) -> AsyncIterator[tuple[int, Received]]:
    """A hub that takes a message to its end and answers it."""
    received: Received = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            received.put_nowait(await reader.read())
            writer.write(answer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], received


async def say(live: Proxies, station: str, port: int, message: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*await live.dial(station, port))
    with contextlib.closing(writer):
        writer.write(message)
        writer.write_eof()
        return await reader.read()


@pytest.mark.parametrize(
    ("shares", "fields", "counter"),
    [
        ((), {"loss": 0.2}, "num_lost"),
        (HALVES, {"loss": 0.2}, "num_lost"),
        (HALVES, {"path": Path(loss=0.2)}, "num_vanished"),
        # A full queue holds the sender back, and drops nothing.
        (HALVES, {"queue_bytes": 3000}, ""),
    ],
)
async def test_bytes_arrive_in_order_whatever_a_cell_loses(
    shares: tuple[float, ...], fields: dict[str, Any], counter: str
) -> None:
    message, answer = bytes(range(256)) * 60, bytes(reversed(range(256))) * 20
    async with hub_of(answer) as (port, received), proxy_cell(cell_of(shares, **fields)) as live:
        saying = (say(live, "a", port, message), say(live, "b", port, message[::-1]))
        assert await asyncio.gather(*saying) == [answer, answer]
        assert {received.get_nowait(), received.get_nowait()} == {message, message[::-1]}
        counters = live.counters().values()
        assert sum(c.num_dropped for c in counters) == 0
        assert not counter or sum(getattr(c, counter) for c in counters) > 0


async def test_every_segment_is_counted_and_acknowledged(eventually) -> None:
    message = bytes(3 * SEGMENT_BYTES)
    async with hub_of(b"") as (port, _), proxy_cell(cell_of(HALVES)) as live:
        assert await say(live, "a", port, message) == b""
        # Three and the end of each direction, each acknowledged.
        await eventually(lambda: live.counters()["a", UP].num_frames == 5)
        await eventually(lambda: live.counters()["a", DOWN].num_frames == 5)
        up, down = live.counters()["a", UP], live.counters()["a", DOWN]
        assert up.num_bytes == len(message) + 5 * HEADER_BYTES
        assert down.num_bytes == 5 * HEADER_BYTES
        assert up.air_s == pytest.approx(5 * 0.0001 + up.num_bytes * 8 / 2e7)
        assert live.counters()["b", UP] == Counters()


Opens = Callable[[], AbstractAsyncContextManager[Proxies]]
both = pytest.mark.parametrize(
    "opens", [lambda: proxy_cell(cell_of(HALVES)), toxic_cell], ids=["medium", "toxics"]
)


@both
async def test_a_hub_that_is_not_there_ends_the_connection(opens: Opens) -> None:
    async with hub_of(b"") as (port, _):
        pass
    async with opens() as live:
        with contextlib.suppress(ConnectionError):
            assert await say(live, "a", port, b"anybody?") == b""


async def test_a_connection_in_use_ends_with_the_cell() -> None:
    async with hub_of(b"") as (port, _):
        async with proxy_cell(cell_of(HALVES)) as live:
            reader, writer = await asyncio.open_connection(*await live.dial("a", port))
            writer.write(b"not the end")
            await live.dial("b", port)
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            assert await reader.read() == b""


async def test_an_end_for_who_has_reset_hurts_nobody_else(eventually) -> None:
    async with hub_of(b"ok") as (port, received), proxy_cell(cell_of(HALVES)) as live:
        _, writer = await asyncio.open_connection(*await live.dial("a", port))
        writer.write(b"gone")
        writer.write_eof()
        # Closing sends a reset, while the answer and its end are under way.
        link = writer.get_extra_info("socket")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await eventually(lambda: not received.empty())
        assert received.get_nowait() == b"gone"
        assert await say(live, "b", port, b"all the same") == b"ok"
        await eventually(lambda: live.num_connections == 0)


@both
async def test_a_port_of_the_hub_has_one_address_a_station(opens: Opens) -> None:
    async with opens() as live:
        first, again = await live.dial("a", 7400), await live.dial("a", 7400)
        assert first == again
        assert len({first, await live.dial("b", 7400), await live.dial("a", 7401)}) == 3
        assert live.command("a", ["echo"]) == ["echo"]


async def test_a_cut_holds_bytes_back_until_it_is_mended(eventually) -> None:
    cell = cell_of(HALVES)
    async with hub_of(b"ok") as (port, received), proxy_cell(cell) as live:
        live.cut("a", [UP])
        saying = asyncio.create_task(say(live, "a", port, b"held"))
        await eventually(lambda: live.counters()["a", UP].num_vanished >= 1)
        assert await say(live, "b", port, b"not held") == b"ok"
        assert received.get_nowait() == b"not held"
        assert not saying.done()
        live.cut("a", [UP], ends=True)
        assert await saying == b"ok"
        assert received.get_nowait() == b"held"


async def test_without_privileges_the_proxy_is_used_and_the_reason_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    async with open_cell(cell_of(HALVES)) as (live, kind):
        assert live.kind == "TCP proxy"
        assert kind == "TCP proxy (network namespaces need root and `ip`)"
    with pytest.raises(NamespacesError, match="need root"):
        async with open_cell(cell_of(HALVES), means="tun"):
            pass


MESSAGE = bytes(range(256)) * 8


QUICK = [
    HEALTHY,
    Toxic(name="stall", stalls_s=0.02, every_s=0.05),
    Toxic(name="drip", piece_bytes=1),
    Toxic(name="cap", rate=50_000.0),
    Toxic(name="slow-close", close_s=0.05),
]


@pytest.mark.parametrize("toxic", QUICK, ids=lambda toxic: toxic.name)
async def test_all_bytes_come_through_in_order(toxic: Toxic) -> None:
    async with hub_of(MESSAGE[::-1]) as (port, received), toxic_cell(toxic) as cell:
        assert await say(cell, "far", port, MESSAGE) == MESSAGE[::-1]
        assert received.get_nowait() == MESSAGE
    assert cell.num_connections == 0


async def test_a_reset_comes_in_the_middle_and_is_an_error_to_both() -> None:
    toxic = Toxic(name="r", reset_bytes=100.0)
    async with hub_of(MESSAGE) as (port, received), toxic_cell(toxic) as cell:
        for _ in range(20):
            with contextlib.suppress(ConnectionError):
                assert len(await say(cell, "far", port, MESSAGE)) < len(MESSAGE)
        assert cell.num_resets >= 20
        assert received.empty()


async def test_a_toxic_holds_for_new_connections_and_old_ones_can_be_ended(eventually) -> None:
    async with hub_of(b"ok") as (port, received), toxic_cell() as cell:
        reader, writer = await asyncio.open_connection(*await cell.dial("far", port))
        with contextlib.closing(writer):
            writer.write(b"one")
            await eventually(lambda: cell.num_connections == 1)
            cell.toxic = Toxic(name="r", reset_bytes=1e-9)
            with contextlib.suppress(ConnectionError):
                assert await say(cell, "far", port, MESSAGE) == b""
            writer.write(b"two")
            writer.write_eof()
            assert await reader.read() == b"ok"
            assert received.get_nowait() == b"onetwo"
        cell.toxic = HEALTHY
        reader, writer = await asyncio.open_connection(*await cell.dial("far", port))
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            await eventually(lambda: cell.num_connections == 1)
            await cell.end_connections()
            assert await reader.read() == b""
        await eventually(lambda: cell.num_connections == 0)


def test_a_cap_lets_pass_its_rate() -> None:
    state = ToxicState(Toxic(name="cap", rate=1000.0), Random(1), 5.0)
    assert [state.passes_at(100, 5.0) for _ in range(3)] == pytest.approx([5.0, 5.1, 5.2])
    # Time that nobody used is not kept.
    assert state.passes_at(100, 9.0) == 9.0
    assert state.passes_at(100, 9.0) == pytest.approx(9.1)


def test_a_stall_is_the_end_of_each_turn() -> None:
    state = ToxicState(Toxic(name="stall", stalls_s=1.0, every_s=5.0), Random(1), 10.0)
    passes = [state.passes_at(1, now) for now in (10.0, 13.9, 14.0, 14.5, 15.0, 18.5, 19.2)]
    assert passes == pytest.approx([10.0, 13.9, 15.0, 15.0, 15.0, 18.5, 20.0])


def test_a_reset_comes_after_as_many_bytes_as_asked_on_average() -> None:
    random, passed = Random(3), []
    for _ in range(2000):
        state, count = ToxicState(Toxic(name="r", reset_bytes=500.0), random, 0.0), 0
        while (allowed := state.allowed(40)) == 40:
            count += allowed
        passed.append(count + allowed)
    assert sum(passed) / len(passed) == pytest.approx(500.0, rel=0.1)
    assert min(passed) >= 1
