"""A fleet with streams under way, while single processes are made to fail."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from airdraft.nodes.client.client import MeshClient, RequestFailedError
from bench.harness.cases import Case
from bench.harness.fleet import Fleet, FleetError, Setup, fleet
from bench.harness.history import Record, Tally
from bench.harness.processes import HUB, beside
from bench.harness.report import counts
from bench.harness.work import ask, keep_asking
from bench.options import Decorator, at_least, seed_option

# Sends a case as a request, given the numbers of stream and request.
Ask = Callable[[int, int, Case], Awaitable[Record]]
_STREAMS_A_CLIENT = 8
_LOOK_EVERY_S = 0.5
_QUIET_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What all runs under faults have in common.

    num_requests: the load ends after so many; None for never. deadline_s: of each request.
    """

    seed: int
    num_streams: int = 8
    num_requests: int | None = None
    deadline_s: float = 60.0
    setup: Setup = field(default_factory=Setup)


def run_option(num_streams: int) -> Decorator:
    """Returns the options --streams and --seed, which a command gets as a Run."""

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run_command(streams: int, seed: int, **others: Any) -> None:
            command(Run(seed=seed, num_streams=streams), **others)

        return at_least("--streams", num_streams)(seed_option(run_command))

    return decorated


@dataclass(frozen=True, slots=True)
class Backdrop:
    """A fleet under load. load: ends with the last request, if their number is limited. looking: an
    admin client that only watches the mesh."""

    fleet: Fleet
    load: asyncio.Task[None]
    looking: MeshClient
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
async def over_the_wire(mesh: Fleet, run: Run, place: str = HUB) -> AsyncIterator[Ask]:
    """Let several clients at a place send the requests."""
    num_clients = -(-run.num_streams // _STREAMS_A_CLIENT)
    async with mesh.clients(num_clients, place=place) as clients:

        async def one(stream: int, number: int, case: Case) -> Record:
            return await ask(clients[stream % num_clients], number, case, run.deadline_s)

        yield one


@contextlib.asynccontextmanager
async def backdrop(
    run: Run,
    cases: Sequence[Case],
    asking: Callable[[Fleet, Run], AbstractAsyncContextManager[Ask]] = over_the_wire,
    mesh: Fleet | None = None,
) -> AsyncIterator[Backdrop]:
    """Run streams until the end of the block, and let the last requests end after it.

    mesh: a fleet whose processes have been started; by default one is made and started.

    Then every process must be back, no stream may be left, no process may have ended by itself, and
    each must end properly. Anything else is added to the faults of the tally.
    """
    tally, random = Tally(seed=run.seed), Random(run.seed + 1)
    opened = fleet(run.setup) if mesh is None else contextlib.nullcontext(mesh)
    async with opened as made, made.clients(1, "admin") as (looking,):
        await made.wait_for(looking)
        async with asking(made, run) as send:

            async def one(stream: int, number: int) -> bool:
                record = await send(stream, number, random.choice(cases))
                tally.add(record)
                return record.end == "finished"

            is_over = asyncio.Event()
            some = itertools.count() if run.num_requests is None else range(run.num_requests)
            numbers = itertools.takewhile(lambda _: not is_over.is_set(), some)
            started = made.now()
            async with beside(keep_asking(one, run.num_streams, numbers)) as (load,):
                scene = Backdrop(made, load, looking, tally)
                yield scene
                is_over.set()
                await load
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


async def left_behind(client: MeshClient, *, is_cache_off: bool = False) -> str:
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
