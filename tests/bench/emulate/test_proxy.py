"""A cell of TCP proxies, sound and ailing: what arrives and is counted, and that all of it ends."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from bench.emulate.cell import DOWN, UP, Cell, Counters, Path, Station
from bench.emulate.open import open_cell
from bench.emulate.proxies import Proxies
from bench.emulate.proxy import HEADER_BYTES, SEGMENT_BYTES, proxy_cell
from bench.emulate.toxics import HEALTHY, Toxic, toxic_cell
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
