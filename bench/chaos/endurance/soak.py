"""Run many short requests of every kind and check that the processes of a mesh do not grow."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from bench.chaos.endurance.soak_load import Load
from bench.chaos.fleet.figures import Figures, figures_of
from bench.chaos.fleet.fleet import Fleet, Setup, fleet
from bench.chaos.http import Connection
from nodes.client.client import Client

GATEWAY: Final = "gateway-0"
# Growth allowed from the first measurement to the last; bounded caches are full at the first.
_MOST_MORE: Final = {"rss_kib": 2048, "files": 0, "threads": 0, "tasks": 0}
_NUM_CLIENTS = 4
_LIMIT_S = 60.0
_SETTLE_S = 1.0
_POLL_S = 0.05


@dataclass(slots=True)
class Soak:
    """Results. figures: by number of finished requests, then by process. outcomes: of requests."""

    figures: dict[int, dict[str, Figures]] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def first(self) -> int:
        return min(self.figures)

    @property
    def last(self) -> int:
        return max(self.figures)

    def growth(self, name: str) -> dict[str, Any]:
        """Return the growth of each figure of a process from the first measurement to the last."""
        before, after = (asdict(self.figures[k][name]) for k in (self.first, self.last))
        return {what: after[what] - before[what] for what in before}

    def check(self) -> None:
        """Add a fault for each figure that has grown too much."""
        for name in self.figures[self.last]:
            for what, more in self.growth(name).items():
                if what in _MOST_MORE and more > _MOST_MORE[what]:
                    self.faults.append(f"{name}: {more} more {what}, {_MOST_MORE[what]} allowed")

    def __str__(self) -> str:
        rows = [
            f"{self.last} requests in {self.seconds:.0f} s: "
            + ", ".join(f"{count} {what}" for what, count in sorted(self.outcomes.items())),
            f"| process | RSS KiB after {self.first} | after {self.last} | growth | files "
            "| threads | tasks | objects | processor s |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for name, after in self.figures[self.last].items():
            before, more = self.figures[self.first][name], self.growth(name)
            rest = " | ".join(
                f"{getattr(before, what)} {more[what]:+d}"
                for what in ("files", "threads", "tasks", "objects")
            )
            rss = f"{before.rss_kib} | {after.rss_kib} | {more['rss_kib']:+d}"
            rows.append(f"| {name} | {rss} | {rest} | {after.cpu_s} |")
        faults = "".join(f"\n  {fault}" for fault in self.faults)
        return "\n".join(rows) + f"\n{len(self.faults)} faults{faults}"


def run_soak(
    num_requests: int, first: int, *, at_once: int = 16, seed: int = 1, says: bool = False
) -> Soak:
    """Run num_requests requests, at_once of them concurrently.

    first: measure after this many requests, and after each further so many. says: print progress.
    """
    return asyncio.run(_soak(num_requests, first, at_once, seed, says))


async def _soak(num_requests: int, first: int, at_once: int, seed: int, says: bool) -> Soak:
    found = Soak()
    setup = Setup(
        num_gateways=1,
        fresh=True,
        # Without a prefix cache, memory for texts reaches its full size soon.
        environ={"AIRDRAFT_ENGINE__PREFIX_CACHE_MB": "0"},
    )
    began = time.monotonic()
    # The clients also request status and traces, which need the role admin.
    async with fleet(setup) as mesh, mesh.clients(_NUM_CLIENTS, "admin") as clients:
        port = await gateway_port(mesh)
        await mesh.wait_for(clients[0])
        await _ready(port)
        load = Load(mesh, clients, port, seed)
        found.outcomes, found.faults = load.outcomes, load.faults
        done = 0
        for mark in [*range(first, num_requests, first), num_requests]:
            numbers = iter(range(done, mark))
            workers = [load.work(numbers, says=says) for _ in range(at_once)]
            await asyncio.gather(*workers)
            done = mark
            await _quiet(clients[0])
            found.figures[mark] = {name: await figures_of(mesh, name) for name in mesh.roles}
            found.seconds = time.monotonic() - began
            if says:
                print(found, file=sys.stderr, flush=True)
        found.faults += mesh.accidents
    found.check()
    return found


async def gateway_port(mesh: Fleet, name: str = GATEWAY) -> int:
    """Return the port of a gateway, which it prints when it starts."""
    path, mark, said = mesh.log(name), "OpenAI API at ", ""
    async with asyncio.timeout(_LIMIT_S):
        while mark not in said:
            await asyncio.sleep(_POLL_S)
            said = path.read_text() if path.exists() else ""
    url = said.rsplit(mark, 1)[1].split()[0]
    return int(url.rsplit(":", 1)[1].split("/")[0])


async def _ready(port: int) -> None:
    """Wait until the gateway is ready. Raises TimeoutError."""
    connection = Connection(port)
    async with asyncio.timeout(_LIMIT_S):
        status = 0
        while status != 200:
            await asyncio.sleep(_POLL_S)
            status = (await connection.ask("GET", "/readyz")).status
    await connection.close()


async def _quiet(client: Client) -> None:
    """Wait until no stream is left in the mesh, and a moment longer. Raises TimeoutError."""
    async with asyncio.timeout(_LIMIT_S):
        while True:
            status = await client.status()
            if not (status.num_streams or status.waiting.num_tokenizing):
                break
            await asyncio.sleep(_POLL_S)
    await asyncio.sleep(_SETTLE_S)
