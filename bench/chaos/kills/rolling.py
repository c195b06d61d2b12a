"""`python -m bench chaos rolling`: restart every role in turn by SIGTERM.

Clients over HTTP meanwhile ask again, by their keys, for what was cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from random import Random
from typing import Final

import click
import httpx

from airdraft.nodes.engine.rules import NO_RULES
from bench.chaos.kills.asking_again import Reader
from bench.chaos.kills.backdrop import Ask, Backdrop, Run, backdrop, run_option
from bench.harness.cases import Case, toy_cases
from bench.harness.fleet import Fleet, Setup
from bench.harness.history import Record, Tally
from bench.harness.report import conclude, note, spread
from bench.options import at_least, names_option

RESTARTED: Final = ("draft", "target", "gateway", "coordinator")
_NUM_CASES: Final = 64
_MEAN_TOKENS: Final = 500.0
# A request may have to wait for several restarts.
_DEADLINE_S: Final = 120.0
_SETUP: Final = Setup(
    num_drafts=1,
    num_gateways=2,
    # A gateway that stops cuts streams after this time; the other one makes them again.
    environ={"AIRDRAFT_LIMITS__STOP_TIMEOUT_S": "0.3"},
)


@click.command("rolling")
@at_least("--rounds", 100)
@names_option("--roles", RESTARTED, "Roles to restart; each round restarts one process of each.")
@run_option(8)
def rolling_command(run: Run, rounds: int, roles: list[str]) -> None:
    """Restart every role by SIGTERM under load; every text must be whole and without error.

    The mesh has two targets, a draft node and two gateways with toy engines. Clients that are cut
    off ask the other gateway with the same Idempotency-Key; what they had must come again.

    \b
    Example:
      python -m bench chaos rolling --rounds 5 --roles draft,target,gateway
    """
    conclude(asyncio.run(run_rolling(run, rounds, roles)))


async def run_rolling(run: Run, num_rounds: int, roles: Sequence[str]) -> Tally:
    """Run num_rounds rounds, each of which restarts one process of each role.

    Every request must be answered: one that fails is a fault, too.
    """
    source, under, counts = Random(run.seed), "", Counter[str]()
    waits_s: dict[str, list[float]] = defaultdict(list)

    @contextlib.asynccontextmanager
    async def over_http(mesh: Fleet, run: Run) -> AsyncIterator[Ask]:
        drawing = Random(run.seed + 2)
        gateways = [name for name, role in mesh.roles.items() if role == "gateway"]
        for name in gateways:
            await mesh.wait_ready(name)
        urls = [mesh.url(name) for name in gateways]
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=run.deadline_s, limits=limits) as http:

            async def ask(_stream: int, number: int, case: Case) -> Record:
                is_stream = drawing.random() < 0.75
                reader = Reader(http, number, case, run.deadline_s, is_stream=is_stream)
                record = await reader.read(urls, drawing.randrange(len(urls)))
                counts.update({f"x {what}": n for what, n in reader.outcomes.items()})
                counts["came again from another gateway"] += reader.came_again
                if is_stream:
                    waits_s[under].append(reader.longest_wait_s)
                return record

            yield ask

    cases = [c for c in toy_cases(source, _NUM_CASES, _MEAN_TOKENS) if c.options.rules == NO_RULES]
    async with backdrop(
        replace(run, setup=_SETUP, deadline_s=_DEADLINE_S), cases, over_http
    ) as scene:
        for number in range(num_rounds):
            for under in source.sample(list(roles), len(roles)):
                await _restart(scene, source, under)
            note(f"round {number + 1}, {scene.tally.num_requests} requests")
    tally = scene.tally
    tally.disturbances += counts
    if failed := tally.ends["failed"]:
        tally.wrong("not answered", f"{failed} requests")
    waits = "; ".join(f"{role} {spread(found)}" for role, found in waits_s.items() if role)
    tally.lines.append(f"longest wait of each stream for more text, by restarted role: {waits}")
    return tally


async def _restart(scene: Backdrop, source: Random, role: str) -> None:
    mesh = scene.fleet
    name = source.choice([name for name, of in mesh.roles.items() if of == role])
    await asyncio.sleep(source.uniform(0.0, 0.5))
    await scene.end(name)
    await asyncio.sleep(source.uniform(0.0, 0.2))
    await mesh.start(name)
    scene.tally.disturbances[f"{role} restarted"] += 1
    # The next restart must not take the last node of a role, nor the last gateway.
    await mesh.wait_for(scene.looking)
    if role == "gateway":
        await mesh.wait_ready(name)
