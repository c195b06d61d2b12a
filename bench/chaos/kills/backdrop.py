"""A fleet with streams under way, while single processes are made to fail."""

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
    """A fleet under load. looking: an admin client that only watches the mesh."""

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
    """Run streams until the end of the block, and let the last requests end after it.

    Then every process must be back, no stream may be left, and no process may have ended by itself.
    Anything else is added to the faults of the tally.
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
            tally.wrong("nothing shown", "no request finished")
        tally.num_stale, tally.num_dropped = stale.num_stale, stale.num_dropped
