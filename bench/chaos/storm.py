"""Requests while processes are killed and stopped: the run that all the commands are forms of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from bench.chaos.cases import Case
from bench.chaos.fleet import Setup, fleet
from bench.chaos.report import Tally
from bench.chaos.stale import Stale
from bench.chaos.torment import Torment
from bench.chaos.work import Load

_STREAMS_A_CLIENT = 8
_TELL_EVERY_S = 10.0
_NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """Ends after num_kills, or after num_requests, whichever is given.

    roles: whose processes are killed. stop_share: of the blows that are a SIGSTOP first.
    deadline_s: of each request.
    """

    seed: int
    num_streams: int
    num_kills: int | None = None
    num_requests: int | None = None
    roles: tuple[str, ...] = ("draft", "target")
    mean_gap_s: float = 0.25
    stop_share: float = 0.2
    deadline_s: float = 60.0
    setup: Setup = field(default_factory=Setup)
    folder: Path = Path()


async def weather(
    storm: Storm, cases: Sequence[Case], tell: Callable[[str], None] = lambda _line: None
) -> Tally:
    """Run a storm to its end; tell hears of its progress."""
    tally = Tally(storm.seed, storm.folder / f"chaos-history-{storm.seed}.json")
    num_clients = -(-storm.num_streams // _STREAMS_A_CLIENT)
    loop = asyncio.get_running_loop()
    async with fleet(storm.setup) as made, made.clients(num_clients + 1) as (looking, *clients):
        await made.wait_for(looking)
        started = loop.time()
        torment = Torment(
            made,
            Random(storm.seed),
            storm.roles,
            mean_gap_s=storm.mean_gap_s,
            stop_share=storm.stop_share,
            counts=tally.disturbances,
        )
        load = Load(
            clients,
            cases,
            Random(storm.seed + 1),
            num_streams=storm.num_streams,
            deadline_s=storm.deadline_s,
            on_end=tally.add,
            num_requests=storm.num_requests,
        )
        stale = Stale(looking)

        def progress() -> str:
            wrong = f", WRONG: {tally.examples[0]}" if tally.examples else ""
            return f"{torment.num_kills} kills, {tally.num_requests} requests{wrong}"

        beside = [
            asyncio.create_task(stale.run()),
            asyncio.create_task(_tell_now_and_then(lambda: tell(progress()))),
        ]
        try:
            async with asyncio.TaskGroup() as group:
                loading = group.create_task(load.run())
                blows = _NO_LIMIT if storm.num_kills is None else storm.num_kills
                tormenting = group.create_task(torment.run(blows))
                # Whichever has no end of its own ends with the other.
                loading.add_done_callback(lambda _task: torment.stop())
                tormenting.add_done_callback(lambda _task: load.stop())
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        tally.took_s = loop.time() - started
        await made.wait_for(looking)
        if left := await stale.left_behind():
            tally.wrong("left behind", left)
        for accident in made.accidents:
            tally.wrong("accident", accident)
        tally.num_stale, tally.num_dropped = stale.num_stale, stale.num_dropped
    return tally


async def _tell_now_and_then(tell: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(_TELL_EVERY_S)
        tell()
