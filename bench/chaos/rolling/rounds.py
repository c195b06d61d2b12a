"""Rounds of rolling restarts, and the outcome of every request meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import httpx

from bench.chaos.quantiles import spread
from bench.chaos.rolling.members import ROLES, Members, members
from bench.chaos.rolling.reader import Answer, GivenUpError, Reader
from bench.gateway.meshes import ALL_TOKENS
from nodes.client.client import Client

_NUM_CASES: Final = 24
_MAX_FAULTS_SHOWN: Final = 20
_AFTER_FAULT_S: Final = 0.2
# Limit for an answer before the restarts begin.
_CALM_LIMIT_S: Final = 60.0


@dataclass(slots=True)
class Rolled:
    """Results. turns: restarts by role. waits_s: longest wait of each stream, by restarted role."""

    seed: int
    num_streams: int
    turns: Counter[str] = field(default_factory=Counter)
    num_requests: int = 0
    num_resumed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    waits_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        turns = ", ".join(f"{count} x {role}" for role, count in self.turns.items())
        tries = ", ".join(f"{count} x {what}" for what, count in self.outcomes.items()) or "none"
        waits = "; ".join(f"{role} {spread(found)}" for role, found in self.waits_s.items())
        lines = [
            f"{self.turns.total()} restarts ({turns}) under {self.num_streams} streams, seed "
            f"{self.seed}: {self.num_requests} requests, {self.num_resumed} resumed at another "
            f"gateway, repeated because of: {tries}",
            f"longest wait of each stream for an event, by restarted role: {waits}",
            f"{len(self.faults)} faults",
            *(f"  {fault}" for fault in self.faults[:_MAX_FAULTS_SHOWN]),
        ]
        return "\n".join(lines)


def run_rolling(
    num_rounds: int,
    roles: Sequence[str],
    *,
    seed: int,
    num_streams: int = 8,
    deadline_s: float = 120.0,
    note: Callable[[str], None] = lambda _line: None,
) -> Rolled:
    """Run num_rounds rounds, each of which restarts one process of each role."""
    rolled = Rolled(seed, num_streams)
    asyncio.run(_run(rolled, num_rounds, roles, deadline_s, note))
    return rolled


async def _run(
    rolled: Rolled,
    num_rounds: int,
    roles: Sequence[str],
    deadline_s: float,
    note: Callable[[str], None],
) -> None:
    source = Random(rolled.seed)
    async with members() as (made, watcher):
        gateways = [name for name, role in ROLES.items() if role == "gateway"]
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=_CALM_LIMIT_S, limits=limits) as http:
            reader = Reader(http, lambda: [made.url(name) for name in gateways], deadline_s)
            cases = [_case(source) for _ in range(_NUM_CASES)]
            expected = [await reader.ask(case, 0) for case in cases]
            load = _Load(rolled, reader, cases, expected, Random(source.random()))
            async with asyncio.TaskGroup() as group:
                for _ in range(rolled.num_streams):
                    group.create_task(load.run())
                for number in range(num_rounds):
                    for role in source.sample(list(roles), len(roles)):
                        load.under = role
                        await _restart(made, watcher, source, role)
                        rolled.turns[role] += 1
                    note(f"round {number + 1} of {num_rounds}: {rolled.num_requests} requests")
                load.is_over = True
    rolled.faults += made.faults


async def _restart(made: Members, watcher: Client, source: Random, role: str) -> None:
    name = source.choice([name for name, of in ROLES.items() if of == role])
    await asyncio.sleep(source.uniform(0.0, 0.5))
    await made.stop(name)
    await asyncio.sleep(source.uniform(0.0, 0.2))
    await made.start(name)
    # The next restart must not take the last node of a role.
    await made.wait_for_nodes(watcher)


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


class _Load:
    """Streams that send one request after another. under: the role being restarted."""

    def __init__(
        self,
        rolled: Rolled,
        reader: Reader,
        cases: Sequence[dict[str, Any]],
        expected: Sequence[Answer],
        source: Random,
    ) -> None:
        self._rolled = rolled
        self._reader = reader
        self._cases = list(zip(cases, expected, strict=True))
        self._source = source
        self.under = ""
        self.is_over = False

    async def run(self) -> None:
        while not self.is_over:
            case, expected = self._source.choice(self._cases)
            try:
                answer = await self._reader.ask(case, self._source.randrange(2))
            except GivenUpError as error:
                self._rolled.faults.append(f"under {self.under}: {error}")
                # If every request fails at once, the list of faults must not fill the memory.
                await asyncio.sleep(_AFTER_FAULT_S)
                continue
            self._count(answer)
            if (answer.texts, answer.reasons) != (expected.texts, expected.reasons):
                self._rolled.faults.append(
                    f"under {self.under}: the text differs from the undisturbed one"
                )

    def _count(self, answer: Answer) -> None:
        rolled = self._rolled
        rolled.num_requests += 1
        rolled.num_resumed += answer.was_resumed
        rolled.outcomes += answer.outcomes
        if answer.longest_wait_s:
            rolled.waits_s[self.under].append(answer.longest_wait_s)
