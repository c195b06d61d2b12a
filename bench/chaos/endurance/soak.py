"""Run many short requests of every kind and check that the processes of a mesh do not grow."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from bench.chaos.endurance.soak_load import Requests
from bench.chaos.kills.backdrop import left_behind
from bench.harness.fleet import Fleet, Setup, fleet
from bench.harness.processes import cpu_s, num_files, num_threads, resident_bytes
from bench.harness.report import Findings, counts, head, row

# Growth allowed from the first measurement to the last; bounded caches are full at the first.
_MOST_MORE: Final = {"rss_kib": 2048, "files": 0, "threads": 0, "tasks": 0}
_SHOWN: Final = ("rss_kib", "files", "threads", "tasks", "objects")
_NUM_CLIENTS = 4
_LIMIT_S = 120.0
_SETTLE_S = 1.0
# The line that a process prints after SIGUSR1, once it has collected its garbage.
_LINE = re.compile(r"figures: (\d+) tasks, (\d+) threads of the pool, (\d+) objects")


# What one process holds: rss_kib, files, threads, tasks, objects and cpu_s. Threads are all of the
# process, libraries included, without the event loop's pool, whose size is bounded. Objects are
# those that Python's garbage collector tracks.
Figures = dict[str, Any]


@dataclass(slots=True)
class Soak(Findings):
    """Results. figures: by number of finished requests, then by process. outcomes: of requests."""

    figures: dict[int, dict[str, Figures]] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def check(self) -> None:
        """Add a fault for each figure that has grown too much."""
        first, last = self.figures[min(self.figures)], self.figures[max(self.figures)]
        for name, after in last.items():
            for what, most in _MOST_MORE.items():
                if (more := after[what] - first[name][what]) > most:
                    self.faults.append(f"{name}: {more} more {what}, {most} allowed")

    def summary(self) -> list[str]:
        first, last = min(self.figures), max(self.figures)
        lines = [
            f"{last} requests in {self.seconds:.0f} s: {counts(self.outcomes)}",
            head("process", *(f"{what} after {first}, growth" for what in _SHOWN), "processor s"),
        ]
        for name, after in self.figures[last].items():
            before = self.figures[first][name]
            grown = [f"{before[what]} {after[what] - before[what]:+d}" for what in _SHOWN]
            lines.append(row(name, *grown, after["cpu_s"]))
        return lines


async def run_soak(
    num_requests: int,
    first: int,
    *,
    at_once: int = 16,
    seed: int = 1,
    tell: Callable[[str], None] = lambda _line: None,
) -> Soak:
    """Run num_requests requests, at_once of them concurrently.

    first: measure after this many requests, and after each further so many.
    """
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
        await mesh.wait_for(clients[0])
        await mesh.is_ready("gateway-0")
        asking = Requests(mesh, clients, seed)
        found.outcomes, found.faults = asking.outcomes, asking.faults
        for mark in [*range(first, num_requests, first), num_requests]:
            await asking.run(mark - found.outcomes.total(), at_once)
            if left := await left_behind(clients[0], is_cache_off=True):
                found.faults.append(f"after the requests there is left: {left}")
            await asyncio.sleep(_SETTLE_S)
            found.figures[mark] = {name: await _figures_of(mesh, name) for name in mesh.roles}
            found.seconds = time.monotonic() - began
            tell(str(found))
        found.faults += mesh.accidents
    found.check()
    return found


async def _figures_of(mesh: Fleet, name: str) -> Figures:
    """Return the figures of a process. Raises FleetError if it does not log them in time."""
    process, log = mesh.process(name), mesh.log(name)

    def said() -> list[tuple[str, str, str]]:
        return _LINE.findall(log.read_text(errors="replace"))

    num_seen = len(said())
    process.signal(signal.SIGUSR1)
    what = f"{name} has logged no figures"
    line = await mesh.until(lambda: next(iter(said()[num_seen:]), None), _LIMIT_S, what)
    tasks, num_pooled, objects = map(int, line)
    pid = process.pid
    return {
        "rss_kib": resident_bytes(pid) // 1024,
        "files": num_files(pid),
        "threads": num_threads(pid) - num_pooled,
        "tasks": tasks,
        "objects": objects,
        "cpu_s": round(cpu_s([pid]), 1),
    }
