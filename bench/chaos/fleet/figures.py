"""Measure what an airdraft process holds: memory, files, threads, tasks and objects."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

from bench.chaos.fleet.fleet import Fleet
from bench.gateway.process import cpu_s

_LIMIT_S = 120.0
_POLL_S = 0.02
# The line that a process logs after SIGUSR1, once it has collected its garbage.
_LINE = re.compile(r"figures: (\d+) tasks, (\d+) threads of the pool, (\d+) objects")


@dataclass(frozen=True, slots=True)
class Figures:
    """What one process holds.

    threads: all threads of the process, libraries included, without the event loop's pool, whose
    size is bounded. objects: objects that Python's garbage collector tracks.
    """

    rss_kib: int
    files: int
    threads: int
    tasks: int
    objects: int
    cpu_s: float


async def figures_of(fleet: Fleet, name: str) -> Figures:
    """Return the figures of a process. Raises TimeoutError if it does not log them in time."""
    process, log = fleet.process(name), fleet.log(name)
    num_seen = len(_LINE.findall(log.read_text(errors="replace")))
    process.signal(signal.SIGUSR1)
    async with asyncio.timeout(_LIMIT_S):
        said: list[tuple[str, str, str]] = []
        while len(said) <= num_seen:
            await asyncio.sleep(_POLL_S)
            said = _LINE.findall(log.read_text(errors="replace"))
    tasks, num_pooled, objects = map(int, said[-1])
    rss_kib, threads = _status(process.pid)
    files = len(os.listdir(f"/proc/{process.pid}/fd"))
    return Figures(
        rss_kib, files, threads - num_pooled, tasks, objects, round(cpu_s(process.pid), 1)
    )


def _status(pid: int) -> tuple[int, int]:
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return int(fields["VmRSS"].split()[0]), int(fields["Threads"])
