"""A proxy that ails: what each toxic does to bytes and to ends, and that nothing is left of it."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random

import pytest

from bench.emulate.toxics import HEALTHY, Toxic, ToxicState, toxic_cell
from tests.bench.emulate.test_proxy import hub_of, say

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
