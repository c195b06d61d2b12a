"""Meshes with draft nodes of different speed and acceptance, for one target and for two.

Nodes run toy models whose passes take given times: the processes are real, the devices emulated.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from bench.asking import ask, taken_of
from bench.harness.fleet import COORDINATOR, Setup, fleet
from bench.harness.report import Findings, head, row
from bench.pairs import in_turns
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions

# A target that takes 40 ms for a pass, as an 8B model does on an AGX Orin; a draft node with a high
# acceptance, and a quicker one with a lower acceptance.
TARGET: Final = "toy:1@40ms"
GOOD: Final = "toy:0.9@8ms"
QUICK: Final = "toy:0.6@3ms"


@dataclass(frozen=True, slots=True)
class MixedMesh:
    name: str
    num_targets: int
    drafts: tuple[str, ...]


MESHES: Final = (
    MixedMesh("one target, no draft node", 1, ()),
    MixedMesh("one target, a good draft node", 1, (GOOD,)),
    MixedMesh("one target, a quick draft node", 1, (QUICK,)),
    MixedMesh("one target, both", 1, (GOOD, QUICK)),
    MixedMesh("two targets, no draft node", 2, ()),
    MixedMesh("two targets, one good draft node for both", 2, (GOOD,)),
    MixedMesh("two targets, both draft nodes", 2, (GOOD, QUICK)),
)
HEAD: Final = head(
    "mesh (emulated devices)", "tokens/s", "to no draft node", "guesses taken", "same texts"
)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a mesh. texts: token ids by request. num_guesses: guesses taken into passes."""

    tokens_per_s: float
    texts: tuple[tuple[int, ...], ...]
    num_guesses: int


async def run_mixed(
    num_streams: int, max_tokens: int, num_turns: int, report: Callable[[str], None]
) -> Findings:
    """Report a row for each mesh. Every turn runs all meshes, so that drift affects all alike.

    Texts that differ from those without draft nodes are faults.
    """
    judged = Findings()
    sides = [lambda _turn, mesh=mesh: _run(mesh, num_streams, max_tokens) for mesh in MESHES]
    found = dict(zip(MESHES, zip(*await in_turns(num_turns, *sides), strict=True), strict=True))
    report(HEAD)
    for mesh, runs in found.items():
        plain = found[_without_drafts(mesh)]
        ratios = [
            ours.tokens_per_s / theirs.tokens_per_s
            for ours, theirs in zip(runs, plain, strict=True)
        ]
        same = sum(
            ours == theirs
            for run, other in zip(runs, plain, strict=True)
            for ours, theirs in zip(run.texts, other.texts, strict=True)
        )
        guesses = f"{median(run.num_guesses for run in runs):.0f} guesses" if mesh.drafts else "-"
        report(
            row(
                mesh.name,
                f"{median(run.tokens_per_s for run in runs):.0f}",
                f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                guesses,
                f"{same} of {num_streams * num_turns}",
            )
        )
        if num_wrong := num_streams * num_turns - same:
            judged.faults.append(f"{mesh.name}: {num_wrong} other texts")
    return judged


def _without_drafts(mesh: MixedMesh) -> MixedMesh:
    return next(m for m in MESHES if m.num_targets == mesh.num_targets and not m.drafts)


async def _run(mixed: MixedMesh, num_streams: int, max_tokens: int) -> Run:
    setup = Setup(
        num_targets=mixed.num_targets,
        num_drafts=len(mixed.drafts),
        target_model=TARGET,
        max_streams=64,
        over="ipc",
    )
    targets = [name for name, role in setup.roles.items() if role == "target"]
    async with fleet(setup, starts=[COORDINATOR, *targets]) as mesh, mesh.clients(1) as (client,):
        for number, model in enumerate(mixed.drafts):
            await mesh.start(f"draft-{number}", "--model", model)
        await mesh.wait_for(client)
        # In a first round, which does not count, the coordinator measures draft nodes.
        await _ask_all(client, num_streams, max_tokens // 4)
        return await _ask_all(client, num_streams, max_tokens)


async def _ask_all(client: Client, num_streams: int, max_tokens: int) -> Run:
    options = GenerateOptions(max_tokens=max_tokens, temperature=0.8, ignore_eog=True)
    began = time.perf_counter()
    answers = await asyncio.gather(
        *(
            ask(client, (5 + k,), replace(options, seed=k, user=f"user-{k}"))
            for k in range(num_streams)
        )
    )
    seconds = time.perf_counter() - began
    texts = tuple(answer.token_ids for answer in answers)
    return Run(sum(map(len, texts)) / seconds, texts, taken_of(answers).num_guesses)
