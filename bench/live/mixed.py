"""Meshes with draft nodes of different speed and acceptance, for one target and for two.

Nodes run toy models whose passes take given times: the processes are real, the devices emulated.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Final

import click

from bench.asking import ask, taken_of
from bench.harness.fleet import COORDINATOR, Setup, fleet
from bench.harness.report import Findings, conclude, head, row
from bench.options import at_least, max_tokens_option
from bench.pairs import in_turns, paired_ratio
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions

# A target that takes 40 ms for a pass, as an 8B model does on an AGX Orin; a draft node with a high
# acceptance, and a quicker one with a lower acceptance.
TARGET: Final = "toy:1@40ms"
GOOD: Final = "toy:0.9@8ms"
QUICK: Final = "toy:0.6@3ms"


# Numbers of targets, and draft nodes; the first mesh of each number has none.
MESHES: Final = {
    "one target, no draft node": (1, ()),
    "one target, a good draft node": (1, (GOOD,)),
    "one target, a quick draft node": (1, (QUICK,)),
    "one target, both": (1, (GOOD, QUICK)),
    "two targets, no draft node": (2, ()),
    "two targets, one good draft node for both": (2, (GOOD,)),
    "two targets, both draft nodes": (2, (GOOD, QUICK)),
}
_PLAIN: Final = {1: "one target, no draft node", 2: "two targets, no draft node"}
HEAD: Final = head(
    "mesh (emulated devices)", "tokens/s", "to no draft node (95 %)", "guesses taken", "same texts"
)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a mesh. texts: token ids by request. num_guesses: guesses taken into passes."""

    tokens_per_s: float
    texts: tuple[tuple[int, ...], ...]
    num_guesses: int


@click.command("mixed")
@at_least("--streams", 8)
@max_tokens_option
@at_least("--turns", 3)
def mixed_command(streams: int, max_tokens: int, turns: int) -> None:
    """EMULATED: measure meshes of unequal draft nodes.

    Draft nodes of different speed work for one target, and for two. Texts that differ from those
    without draft nodes are faults.

    \b
    Example:
      python -m bench live mixed --streams 4 --turns 1
    """
    made = Findings([HEAD])
    sides = [partial(_run, *mesh, streams, max_tokens) for mesh in MESHES.values()]
    by_turn = asyncio.run(in_turns(turns, *sides))
    found = dict(zip(MESHES, zip(*by_turn, strict=True), strict=True))
    for name, runs in found.items():
        num_targets, drafts = MESHES[name]
        pairs = list(zip(found[_PLAIN[num_targets]], runs, strict=True))
        same = [a == b for plain, run in pairs for a, b in zip(plain.texts, run.texts, strict=True)]
        guesses = f"{median(run.num_guesses for run in runs):.0f} guesses" if drafts else "-"
        made.lines.append(
            row(
                *(name, f"{median(run.tokens_per_s for run in runs):.0f}"),
                paired_ratio([(plain.tokens_per_s, run.tokens_per_s) for plain, run in pairs]),
                *(guesses, f"{sum(same)} of {len(same)}"),
            )
        )
        if not all(same):
            made.faults.append(f"{name}: {same.count(False)} other texts")
    conclude(made)


async def _run(
    num_targets: int, drafts: Sequence[str], num_streams: int, max_tokens: int, _turn: int
) -> Run:
    setup = Setup(
        num_targets=num_targets,
        num_drafts=len(drafts),
        target_model=TARGET,
        max_streams=64,
        over="ipc",
    )
    targets = [name for name, role in setup.roles.items() if role == "target"]
    async with fleet(setup, starts=[COORDINATOR, *targets]) as mesh, mesh.clients(1) as (client,):
        for number, model in enumerate(drafts):
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
