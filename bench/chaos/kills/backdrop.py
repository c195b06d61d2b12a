"""A fleet with streams that go on and on, before which single processes are made to fail."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from random import Random

from bench.chaos.cases import Case
from bench.chaos.fleet.fleet import Fleet, Setup, fleet
from bench.chaos.fleet.stale import Stale
from bench.chaos.report import Tally
from bench.chaos.work import Load
from nodes.client.client import Client

_STREAMS_A_CLIENT = 8


@dataclass(frozen=True, slots=True)
class Backdrop:
    """load: of all streams. looking: a client that asks for nothing but news."""

    fleet: Fleet
    load: Load
    looking: Client
    stale: Stale


@contextlib.asynccontextmanager
async def backdrop(
    setup: Setup,
    cases: Sequence[Case],
    tally: Tally,
    *,
    num_streams: int,
    deadline_s: float,
    num_requests: int | None = None,
) -> AsyncIterator[Backdrop]:
    """Streams run until the end of the block, and the last requests to their ends after it.

    Then every process must be back, nothing left behind, and no process have ended by itself.
    """
    num_clients = -(-num_streams // _STREAMS_A_CLIENT)
    loop = asyncio.get_running_loop()
    async with (
        fleet(setup) as made,
        made.clients(1, "admin") as (looking,),
        made.clients(num_clients) as clients,
    ):
        await made.wait_for(looking)
        load = Load(
            clients,
            cases,
            Random(tally.seed + 1),
            num_streams=num_streams,
            deadline_s=deadline_s,
            on_end=tally.add,
            num_requests=num_requests,
        )
        stale, started = Stale(looking), loop.time()
        watching = asyncio.create_task(stale.run())
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(load.run())
                try:
                    yield Backdrop(made, load, looking, stale)
                finally:
                    load.stop()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        tally.took_s = loop.time() - started
        await made.wait_for(looking)
        if left := await stale.left_behind():
            tally.wrong("left behind", left)
        for accident in made.accidents:
            tally.wrong("accident", accident)
        if not tally.ends["finished"]:
            tally.wrong("nothing shown", "no request was finished")
        tally.num_stale, tally.num_dropped = stale.num_stale, stale.num_dropped
