"""A fleet with streams under way, while single processes are made to fail."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from bench.harness.cases import Case
from bench.harness.fleet import Fleet, FleetError, Setup, fleet
from bench.harness.history import Record, Tally
from bench.harness.report import counts
from bench.harness.work import Load, ask
from nodes.client.client import Client, RequestFailedError

# Sends a case as a request, given the numbers of stream and request.
Ask = Callable[[int, int, Case], Awaitable[Record]]
_STREAMS_A_CLIENT = 8
_LOOK_EVERY_S = 0.5
_QUIET_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What all runs under faults have in common.

    num_requests: the load ends after so many; None for never. deadline_s: of each request. folder:
    directory for the history of a wrong request. tell: called with lines about the progress.
    """

    seed: int
    num_streams: int = 8
    num_requests: int | None = None
    deadline_s: float = 60.0
    setup: Setup = field(default_factory=Setup)
    folder: Path = Path()
    tell: Callable[[str], None] = lambda _line: None


@dataclass(frozen=True, slots=True)
class Backdrop:
    """A fleet under load. looking: an admin client that only watches the mesh."""

    fleet: Fleet
    load: Load
    looking: Client
    tally: Tally

    async def end(self, name: str) -> None:
        """End a process by SIGTERM; another exit code than 0 is a fault."""
        try:
            if code := await self.fleet.terminate(name):
                words = self.fleet.last_words(name)
                self.tally.wrong("accident", f"{name} ended with exit code {code}: {words}")
        except FleetError as error:
            self.tally.wrong("accident", str(error))


@contextlib.asynccontextmanager
async def over_the_wire(mesh: Fleet, run: Run) -> AsyncIterator[Ask]:
    """Let several clients send the requests."""
    num_clients = -(-run.num_streams // _STREAMS_A_CLIENT)
    async with mesh.clients(num_clients) as clients:

        async def one(stream: int, number: int, case: Case) -> Record:
            return await ask(clients[stream % num_clients], number, case, run.deadline_s)

        yield one


@contextlib.asynccontextmanager
async def backdrop(
    run: Run,
    cases: Sequence[Case],
    asking: Callable[[Fleet, Run], AbstractAsyncContextManager[Ask]] = over_the_wire,
) -> AsyncIterator[Backdrop]:
    """Run streams until the end of the block, and let the last requests end after it.

    Then every process must be back, no stream may be left, no process may have ended by itself, and
    each must end properly. Anything else is added to the faults of the tally.
    """
    tally, random = Tally(seed=run.seed, folder=run.folder), Random(run.seed + 1)
    async with fleet(run.setup) as made, made.clients(1, "admin") as (looking,):
        await made.wait_for(looking)
        async with asking(made, run) as send:

            async def one(stream: int, number: int) -> bool:
                record = await send(stream, number, random.choice(cases))
                tally.add(record)
                return record.end == "finished"

            load = Load(one, run.num_streams, run.num_requests)
            scene, started = Backdrop(made, load, looking, tally), made.now()
            async with asyncio.TaskGroup() as group:
                group.create_task(load.run())
                try:
                    yield scene
                finally:
                    load.stop()
            tally.took_s = made.now() - started
        await made.wait_for(looking)
        if left := await left_behind(looking):
            tally.wrong("left behind", left)
        for name in reversed(made.roles):
            await scene.end(name)
        for accident in made.accidents:
            tally.wrong("accident", accident)
        if not tally.ends["finished"]:
            tally.wrong("nothing shown", "no request finished")


async def left_behind(client: Client, *, is_cache_off: bool = False) -> str:
    """Wait until no stream is left after all requests have ended, and without a cache no used cell.

    Returns "" if none is left within the limit, otherwise a description of the rest.
    """
    found = "no status"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_QUIET_LIMIT_S):
            while found:
                await asyncio.sleep(_LOOK_EVERY_S)
                with contextlib.suppress(RequestFailedError):
                    status = await client.status()
                    rest = {
                        "streams": status.num_streams,
                        "waiting": status.waiting.num_streams + status.waiting.num_tokenizing,
                    }
                    if is_cache_off:
                        rest["cells and streams of nodes"] = sum(
                            node.num_streams + node.used_cells for node in status.nodes
                        )
                    found = counts({what: count for what, count in rest.items() if count}, "")
    return found
