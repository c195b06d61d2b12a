"""Run requests while processes are killed and stopped at random."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from bench.chaos.cases import Case
from bench.chaos.fleet.fleet import Setup
from bench.chaos.kills.backdrop import backdrop
from bench.chaos.kills.torment import Torment
from bench.chaos.report import Tally

_TELL_EVERY_S = 10.0
_NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """Parameters of a run, which ends after num_kills or num_requests, whichever is given.

    roles: roles whose processes are killed. stop_share: share of blows that begin with SIGSTOP.
    deadline_s: deadline of each request. folder: directory for the history of a wrong request.
    """

    seed: int
    num_streams: int
    num_kills: int | None = None
    num_requests: int | None = None
    roles: tuple[str, ...] = ("draft", "target", "coordinator")
    mean_gap_s: float = 0.25
    stop_share: float = 0.2
    deadline_s: float = 60.0
    setup: Setup = field(default_factory=Setup)
    folder: Path = Path()


async def weather(
    storm: Storm, cases: Sequence[Case], tell: Callable[[str], None] = lambda _line: None
) -> Tally:
    """Run a storm to its end; `tell` is called with lines about its progress."""
    tally = Tally(storm.seed, storm.folder)
    behind = backdrop(
        storm.setup,
        cases,
        tally,
        num_streams=storm.num_streams,
        deadline_s=storm.deadline_s,
        num_requests=storm.num_requests,
    )
    async with behind as scene:
        torment = Torment(
            scene.fleet,
            Random(storm.seed),
            storm.roles,
            mean_gap_s=storm.mean_gap_s,
            stop_share=storm.stop_share,
            counts=tally.disturbances,
        )
        scene.load.on_done = torment.stop

        def progress() -> None:
            done = f"{torment.num_kills} kills, {tally.num_requests} requests"
            tell(f"{done}: {tally.verdict()}")

        telling = asyncio.create_task(_repeat(progress))
        try:
            await torment.run(_NO_LIMIT if storm.num_kills is None else storm.num_kills)
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
    return tally


async def _repeat(tell: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(_TELL_EVERY_S)
        tell()
