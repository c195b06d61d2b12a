"""A coordinator with keys in a process of its own, and a client that keeps sending requests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from bench.harness.fleet import COORDINATOR, Fleet, Setup, fleet
from bench.harness.http import port_of
from bench.harness.processes import ended, resident_bytes
from bench.harness.report import quantiles
from bench.load.processes import cpu_s
from mesh.keys import AUTHORIZED_FILE, ClientKeys, KeyPair, write_private
from mesh.security import new_key_pair
from nodes.keys.keyring import Keyring
from nodes.service.runtime import raise_file_limit

_ASK_EVERY_S = 0.02


@dataclass(frozen=True, slots=True)
class Live:
    """A running coordinator."""

    mesh: Fleet
    server_key: str

    @property
    def endpoint(self) -> str:
        return self.mesh.endpoint

    @property
    def pid(self) -> int:
        return self.mesh.process(COORDINATOR).pid

    @property
    def port(self) -> int:
        return port_of(self.endpoint)

    def keys(self, own: KeyPair) -> ClientKeys:
        return ClientKeys(own, self.server_key)

    def rss_mb(self) -> float:
        return resident_bytes(self.pid) / 2**20


@contextlib.asynccontextmanager
async def live_coordinator(
    pairs: Sequence[KeyPair] = (), max_files: int = 0
) -> AsyncIterator[Live]:
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
        server = ring.coordinator_pair()
        assert server is not None
        await mesh.start(COORDINATOR, max_files=max_files)
        yield Live(mesh, server.public)


async def busy(pid: int, seconds: float) -> float:
    """Return the part of a core that a process takes during the next seconds."""
    before_s, began = cpu_s([pid]), time.monotonic()
    await asyncio.sleep(seconds)
    return (cpu_s([pid]) - before_s) / (time.monotonic() - began)


@dataclass(slots=True)
class Asked:
    """Round trips of the client, and the time that it took to join."""

    times_s: list[float]
    joined_s: float = 0.0

    def __str__(self) -> str:
        if not self.times_s:
            return "no answers"
        p50, p99, longest = (s * 1e3 for s in quantiles(self.times_s))
        return (
            f"{len(self.times_s)} answers, median {p50:.1f} ms, p99 {p99:.1f} ms, longest "
            f"{longest:.1f} ms"
        )


@contextlib.asynccontextmanager
async def asking(live: Live) -> AsyncIterator[Asked]:
    """Run an authorized client that sends requests during the block; it joins before it."""
    asked, started = Asked([]), time.perf_counter()
    async with live.mesh.clients(1) as (client,):
        await client.nodes()
        asked.joined_s = time.perf_counter() - started

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


def new_pairs(count: int) -> list[KeyPair]:
    return [new_key_pair() for _ in range(count)]
