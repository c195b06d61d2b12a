"""A coordinator with keys in a process of its own, and a client that keeps sending requests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from bench.harness.fleet import COORDINATOR, Fleet, Setup, fleet
from bench.harness.processes import ended
from bench.harness.report import quantiles
from bench.load.processes import cpu_s
from mesh.keys import AUTHORIZED_FILE, KeyPair, write_private
from mesh.security import new_key_pair
from nodes.client.client import Client
from nodes.keys.keyring import Keyring
from nodes.service.runtime import raise_file_limit

_ASK_EVERY_S = 0.02
_LIMIT_S = 120.0


@contextlib.asynccontextmanager
async def live_coordinator(
    pairs: Sequence[KeyPair] = (), max_files: int = 0
) -> AsyncIterator[Fleet]:
    """Run a coordinator on loopback with keys, without limit for the files of this process.

    pairs: key pairs that it lets in beside those of a fleet's clients. max_files: limit of its open
    files; 0 for none.
    """
    raise_file_limit()
    async with fleet(Setup(num_targets=0, num_drafts=0), starts=()) as mesh:
        ring = Keyring(mesh.keys(COORDINATOR))
        # A thousand keys are written at once, because each Entry is written with all before it.
        path = ring.directory / AUTHORIZED_FILE
        entries = [
            f'[[node]]\nkey = "{pair.public}"\nname = "n{number}"\nroles = ["client"]\n'
            for number, pair in enumerate(pairs)
        ]
        write_private(path, path.read_text() + "".join(entries))
        await mesh.start(COORDINATOR, max_files=max_files)
        yield mesh


async def busy(mesh: Fleet, seconds: float, name: str = COORDINATOR) -> float:
    """Return the part of a core that a process takes during the next seconds."""
    pid = mesh.process(name).pid
    before_s, began = cpu_s([pid]), time.monotonic()
    await asyncio.sleep(seconds)
    return (cpu_s([pid]) - before_s) / (time.monotonic() - began)


@dataclass(slots=True)
class Asked:
    """Round trips of the client."""

    times_s: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.times_s:
            return "no answers"
        p50, p99, longest = (s * 1e3 for s in quantiles(self.times_s))
        return (
            f"{len(self.times_s)} answers, median {p50:.1f} ms, p99 {p99:.1f} ms, longest "
            f"{longest:.1f} ms"
        )


@contextlib.asynccontextmanager
async def asking(mesh: Fleet) -> AsyncIterator[Asked]:
    """Run an authorized client that sends requests during the block; it joins before it."""
    asked = Asked()
    async with mesh.clients(1) as (client,):
        await client.nodes()

        async def ask() -> None:
            while True:
                start = time.perf_counter()
                await client.nodes()
                asked.times_s.append(time.perf_counter() - start)
                await asyncio.sleep(_ASK_EVERY_S)

        task = asyncio.create_task(ask())
        try:
            yield asked
        finally:
            await ended([task])


@contextlib.asynccontextmanager
async def crowd_of(
    mesh: Fleet, pairs: Sequence[KeyPair], least: int
) -> AsyncIterator[list[Client]]:
    """Run a client for each key pair; the block begins when at least so many have joined.

    Raises FleetError if they do not join.
    """

    async with mesh.clients(len(pairs), pairs=pairs) as clients:

        def have_joined() -> bool | None:
            return sum(client.is_joined for client in clients) >= least or None

        await mesh.until(have_joined, _LIMIT_S, "the clients have not joined")
        yield clients


def new_pairs(count: int) -> list[KeyPair]:
    return [new_key_pair() for _ in range(count)]
