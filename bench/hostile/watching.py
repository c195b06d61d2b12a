"""Watches a mesh while it is attacked: a user's streams, silences, memory, and who has ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from airdraft.nodes.client.client import RequestFailedError
from bench.harness.fleet import COORDINATOR, Fleet
from bench.harness.http import COMPLETIONS, http_client
from bench.harness.processes import ROOT, beside, cpu_s, resident_bytes, tree
from bench.harness.report import quantiles

GATEWAY: Final = "gateway-0"
_NUM_STREAMS: Final = 2
_ANSWER_LIMIT_S: Final = 60.0
_PROBE_EVERY_S: Final = 0.1
_MEMORY_EVERY_S: Final = 0.2
_CALM_S: Final = 1.0
_BODY: Final = {"prompt": "Once upon a time", "max_tokens": 300, "ignore_eos": True, "stream": True}
_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True, slots=True)
class UnitLimits:
    """What the unit of a role allows: memory, and the time in which it must say that it lives."""

    memory_bytes: float
    watchdog_s: float


def limits_of(role: str) -> UnitLimits:
    """Read the limits of a role's unit."""
    (path,) = (ROOT / "systemd").glob(f"airdraft-{role}*.service")
    text = path.read_text()
    found = dict(re.findall(r"^(MemoryMax|WatchdogSec)=(\S+)$", text, re.M))
    size = found["MemoryMax"]
    if size.endswith("%"):
        total = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
        assert total is not None
        memory = int(total[1]) * 1024 * float(size[:-1]) / 100
    else:
        memory = float(size[:-1]) * _UNITS[size[-1]]
    return UnitLimits(memory, float(found["WatchdogSec"]))


@dataclass(slots=True)
class Heard:
    """What was seen in a time. gaps: time of each token and seconds since the one before it.

    first_s: seconds until the first token of each stream. cores: processor time of each process
    per second.
    """

    begin: float
    end: float = 0.0
    gaps: list[tuple[float, float]] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    cores: Mapping[str, float] = field(default_factory=dict)

    def quantiles(self) -> tuple[float, float, float]:
        return quantiles([gap_s for _, gap_s in self.gaps])


class Watch:
    """What must not happen, and how near the mesh came to it.

    ended, faults: times and texts, of processes that have ended and of all else. peaks: bytes by
    process. silences: begin and end of the longest time for which a process did not answer.
    """

    def __init__(self, mesh: Fleet, key: str) -> None:
        self.ended: list[tuple[float, str]] = []
        self.faults: list[tuple[float, str]] = []
        self.peaks: dict[str, int] = {}
        self.silences: dict[str, tuple[float, float]] = {}
        self._mesh = mesh
        self._key = key
        self._limits = {name: limits_of(role) for name, role in mesh.roles.items()}
        self._pending: dict[str, float] = {}
        self._cpu = self._cpu_s()
        self._heard = Heard(mesh.now())
        self._began = mesh.now()

    def take(self) -> Heard:
        """Returns what was seen since the last call."""
        now, heard = self._mesh.now(), self._heard
        before, self._cpu = self._cpu, self._cpu_s()
        heard.end, seconds = now, now - heard.begin
        both = before.keys() & self._cpu.keys()
        heard.cores = {name: (self._cpu[name] - before[name]) / seconds for name in sorted(both)}
        self._heard = Heard(now)
        return heard

    async def calm(self, limit_s: float) -> None:
        """Wait until tokens come and all processes answer at once, and begin anew."""
        give_up_at = self._mesh.now() + limit_s
        while self._mesh.now() < give_up_at and not self.ended:
            began = self._mesh.now()
            await asyncio.sleep(_CALM_S)
            heard = self.take()
            waits = [began, *self._pending.values()]
            if heard.gaps and min(waits) >= began - _PROBE_EVERY_S:
                return

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch until the end of the block, and check then what was seen in all."""
        mesh = self._mesh
        async with (
            mesh.clients(1) as (client,),
            http_client(mesh.port(GATEWAY), _ANSWER_LIMIT_S) as http,
        ):

            async def healthy() -> None:
                (await http.get("/healthz")).raise_for_status()

            async def nodes() -> None:
                await client.nodes()

            streams = [self._streams(http) for _ in range(_NUM_STREAMS)]
            probes = self._probe(GATEWAY, healthy), self._probe(COORDINATOR, nodes)
            async with beside(*streams, *probes, self._look()):
                yield
        now = mesh.now()
        for name, began in self._pending.items():
            self._note_silence(name, began)
        for name, (began, end) in self.silences.items():
            if end - began > (most_s := self._limits[name].watchdog_s / 2):
                text = f"{name} was silent for {end - began:.1f} s of {most_s:g} s"
                self.faults.append((end, text))
        for name, peak in self.peaks.items():
            if peak > (most := self._limits[name].memory_bytes):
                text = f"{name} had {peak / 1e6:.0f} MB, and its unit allows {most / 1e6:.0f}"
                self.faults.append((now, text))
        for change in mesh.log_of_members.left(self._began, now):
            if change.node in mesh.setup.roles:
                self.faults.append((change.at, f"{change.node} left: {change.reason}"))

    def memory(self) -> str:
        """Peak memory by process beside what its unit allows, in MB."""
        each = (
            f"{name} {peak / 1e6:.0f} of {self._limits[name].memory_bytes / 1e6:.0f}"
            for name, peak in self.peaks.items()
        )
        return ", ".join(each)

    async def _streams(self, http: httpx.AsyncClient) -> None:
        """Stream answers one after another, and note when each token comes."""
        while True:
            try:
                await self._stream(http)
            except (httpx.HTTPError, ValueError) as error:
                text = f"a user's stream failed: {type(error).__name__} {error}"
                self.faults.append((self._mesh.now(), text[:300]))
                await asyncio.sleep(_PROBE_EVERY_S)

    async def _stream(self, http: httpx.AsyncClient) -> None:
        began = last_at = self._mesh.now()
        is_first = True
        allowed = {"Authorization": f"Bearer {self._key}"}
        async with http.stream("POST", COMPLETIONS, json=_BODY, headers=allowed) as answer:
            if answer.status_code != 200:
                raise ValueError(f"status {answer.status_code}: {(await answer.aread())[:200]!r}")
            async for line in answer.aiter_lines():
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    return
                event = json.loads(line[6:])
                if "error" in event:
                    raise ValueError(f"error event {event['error']}")
                now = self._mesh.now()
                if is_first:
                    self._heard.first_s.append(now - began)
                else:
                    self._heard.gaps.append((now, now - last_at))
                last_at, is_first = now, False
        raise ValueError("the stream ended without [DONE]")

    async def _probe(self, name: str, ask: Callable[[], Awaitable[Any]]) -> None:
        """Ask a process again and again, and keep the longest time until an answer."""
        while True:
            self._pending[name] = began = self._mesh.now()
            # What fails at once is no silence; its cause is seen by other checks.
            with contextlib.suppress(httpx.HTTPError, RequestFailedError):
                await ask()
            self._note_silence(name, began)
            self._pending.pop(name)
            await asyncio.sleep(_PROBE_EVERY_S)

    def _note_silence(self, name: str, began: float) -> None:
        end, (longest_began, longest_end) = self._mesh.now(), self.silences.get(name, (0.0, 0.0))
        if end - began > longest_end - longest_began:
            self.silences[name] = began, end

    async def _look(self) -> None:
        while True:
            for name in self._mesh.roles:
                if self._mesh.is_up(name):
                    used = sum(map(resident_bytes, tree(self._mesh.process(name).pid)))
                    self.peaks[name] = max(self.peaks.get(name, 0), used)
            for text in self._mesh.accidents[len(self.ended) :]:
                self.ended.append((self._mesh.now(), text))
            await asyncio.sleep(_MEMORY_EVERY_S)

    def _cpu_s(self) -> dict[str, float]:
        names = [name for name in self._mesh.roles if self._mesh.is_up(name)]
        return {name: cpu_s(tree(self._mesh.process(name).pid)) for name in names}
