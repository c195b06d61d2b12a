"""Rounds of rolling restarts, and the outcome of every request meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import httpx

from bench.chaos.rolling.reader import Answer, GivenUpError, Reader
from bench.harness.fleet import Fleet, FleetError, Setup, fleet
from bench.harness.report import Findings, counts, spread
from bench.harness.up import ALL_TOKENS
from bench.harness.work import Load
from nodes.client.client import Client

_NUM_CASES: Final = 24
# Pause after a fault: if every request fails at once, the list must not fill the memory.
_AFTER_FAULT_S: Final = 0.2
# Limit for an answer before the restarts begin.
_CALM_LIMIT_S: Final = 60.0
_SETUP: Final = Setup(
    num_drafts=1,
    num_gateways=2,
    # A gateway that stops cuts streams after this time; they continue at the other gateway.
    environ={"AIRDRAFT_LIMITS__STOP_TIMEOUT_S": "0.3"},
)


@dataclass(slots=True)
class Rolled(Findings):
    """Results. turns: restarts by role. waits_s: longest wait of each stream, by restarted role."""

    seed: int = 0
    turns: Counter[str] = field(default_factory=Counter)
    num_requests: int = 0
    num_resumed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    waits_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def summary(self) -> list[str]:
        waits = "; ".join(f"{role} {spread(found)}" for role, found in self.waits_s.items())
        return [
            f"{self.turns.total()} restarts ({counts(self.turns)}), seed {self.seed}: "
            f"{self.num_requests} requests, {self.num_resumed} resumed at another gateway, "
            f"repeated because of: {counts(self.outcomes)}",
            f"longest wait of each stream for an event, by restarted role: {waits}",
        ]

    def add(self, under: str, answer: Answer, expected: Answer) -> None:
        """Count an answer. under: the role that was being restarted."""
        self.num_requests += 1
        self.num_resumed += answer.was_resumed
        self.outcomes += answer.outcomes
        if answer.longest_wait_s:
            self.waits_s[under].append(answer.longest_wait_s)
        if (answer.texts, answer.reasons) != (expected.texts, expected.reasons):
            self.faults.append(f"under {under}: the text differs from the undisturbed one")


async def run_rolling(
    num_rounds: int,
    roles: Sequence[str],
    *,
    seed: int,
    num_streams: int = 8,
    deadline_s: float = 120.0,
    note: Callable[[str], None] = lambda _line: None,
) -> Rolled:
    """Run num_rounds rounds, each of which restarts one process of each role."""
    rolled, source, under = Rolled(seed=seed), Random(seed), ""
    limits = httpx.Limits(max_connections=None)
    async with (
        fleet(_SETUP) as mesh,
        mesh.clients(1) as (watcher,),
        httpx.AsyncClient(timeout=_CALM_LIMIT_S, limits=limits) as http,
    ):
        await mesh.wait_for(watcher)
        gateways = [name for name, role in mesh.roles.items() if role == "gateway"]
        for name in gateways:
            await mesh.is_ready(name)
        urls = [mesh.url(name) for name in gateways]
        cases = [_case(source) for _ in range(_NUM_CASES)]
        expected = [await Reader(http, case).read(urls, 0, _CALM_LIMIT_S) for case in cases]
        drawing = Random(source.random())

        async def ask(_stream: int, _number: int) -> bool:
            place = drawing.randrange(_NUM_CASES)
            reader = Reader(http, cases[place])
            try:
                answer = await reader.read(urls, drawing.randrange(len(urls)), deadline_s)
            except GivenUpError as error:
                rolled.faults.append(f"under {under}: {error}")
                return False
            rolled.add(under, answer, expected[place])
            return True

        load = Load(ask, num_streams, pause_s=_AFTER_FAULT_S)
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            for number in range(num_rounds):
                for role in source.sample(list(roles), len(roles)):
                    under = role
                    await _restart(mesh, watcher, source, role, rolled)
                    rolled.turns[role] += 1
                note(f"round {number + 1} of {num_rounds}: {rolled.num_requests} requests")
            load.stop()
        for name in reversed(mesh.roles):
            await _end(mesh, name, rolled)
        rolled.faults += mesh.accidents
    return rolled


async def _restart(mesh: Fleet, watcher: Client, source: Random, role: str, rolled: Rolled) -> None:
    name = source.choice([name for name, of in mesh.roles.items() if of == role])
    await asyncio.sleep(source.uniform(0.0, 0.5))
    await _end(mesh, name, rolled)
    await asyncio.sleep(source.uniform(0.0, 0.2))
    await mesh.start(name)
    # The next restart must not take the last node of a role, nor the last gateway.
    await mesh.wait_for(watcher)
    if role == "gateway":
        await mesh.is_ready(name)


async def _end(mesh: Fleet, name: str, rolled: Rolled) -> None:
    try:
        if code := await mesh.terminate(name):
            rolled.faults.append(f"{name} ended with exit code {code}: {mesh.last_words(name)}")
    except FleetError as error:
        rolled.faults.append(str(error))


def _case(source: Random) -> dict[str, Any]:
    sampled = source.random() < 0.7
    return {
        "prompt": "".join(source.choices("abcdefgh ", k=source.randint(4, 200))),
        "max_tokens": source.randint(100, 1000),
        "temperature": 1.0 if sampled else 0.0,
        **ALL_TOKENS,
        "seed": source.randrange(1 << 40),
        "n": source.choice((1, 1, 1, 2)),
        "stop": source.choice(([], [f" {source.randrange(90)} {source.randrange(9)}"])),
        "stream": source.random() < 0.75,
        "ignore_eos": True,
    }
