"""Time to the first token beside a bare prefill of the same length, and the gaps after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random

from bench.asking import Pair, ask_one
from bench.bare import BareLoop
from bench.harness.report import head, quantiles, row
from bench.load.workloads import workload
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions, Prompt
from nodes.messages import ChatMessage
from nodes.service.local import local_mesh

FIRST_HEAD = head(
    "prompt tokens", "guesses", "bare prefill ms", "first token ms", "1.1 x prefill + 15 ms"
)
GAPS_HEAD = head("prompts", "guesses", "gap p50 ms", "p99 ms", "longest ms")
# All vocabularies have these ids; what a text of them means takes no part in its time.
_IDS = range(1_000, 30_000)


async def run_first(
    pair: Pair,
    lengths: Sequence[int],
    kinds: Sequence[str],
    *,
    repeats: int,
    max_tokens: int,
    report: Callable[[str], None],
) -> None:
    """Report the two tables at one stream, rows as they come.

    lengths: of prompts, in tokens; `repeats` new prompts of each are read, in turn by the bare
    loop, with guesses and without. kinds: of prompts whose gaps are measured, `repeats` of each.
    """
    target, draft = pair.settings()
    bare = BareLoop(Path(target.model))
    try:
        async with local_mesh(target, draft, lookup=pair.looks_up) as (mesh, client):
            await mesh.beside(_times(client, (1, 2, 3), None, 24))
            report(FIRST_HEAD)
            for length in lengths:
                for line in await mesh.beside(_first_rows(client, bare, length, repeats)):
                    report(line)
            report(GAPS_HEAD)
            for kind in kinds:
                for line in await mesh.beside(_gap_rows(client, kind, repeats, max_tokens)):
                    report(line)
    finally:
        bare.close()


async def _first_rows(client: Client, bare: BareLoop, length: int, repeats: int) -> list[str]:
    random = Random(length)
    bare_s: list[float] = []
    first_s: dict[int | None, list[float]] = {0: [], None: []}
    for _ in range(repeats):
        bare_s.append(await asyncio.to_thread(bare.prefill_s, length))
        for gamma, found in first_s.items():
            prompt = tuple(random.choice(_IDS) for _ in range(length))
            found.append((await _times(client, prompt, gamma, 8))[0])
    prefill_s = quantiles(bare_s)[0]
    lines = []
    for gamma, found in first_s.items():
        median_s = quantiles(found)[0]
        limit_s = 1.1 * prefill_s + 0.015
        lines.append(
            row(
                *(length, _named(gamma), f"{prefill_s * 1e3:.0f}", f"{median_s * 1e3:.0f}"),
                f"{'kept' if median_s <= limit_s else 'missed'}: {limit_s * 1e3:.0f}",
            )
        )
    return lines


async def _gap_rows(client: Client, kind: str, repeats: int, max_tokens: int) -> list[str]:
    gaps_s: dict[int | None, list[float]] = {0: [], None: []}
    for text in workload(kind, repeats).prompts:
        for gamma, found in gaps_s.items():
            prompt = (ChatMessage("user", text),)
            found += (await _times(client, prompt, gamma, max_tokens))[1:]
    return [
        row(kind, _named(gamma), *(f"{seconds * 1e3:.0f}" for seconds in quantiles(found)))
        for gamma, found in gaps_s.items()
    ]


def _named(gamma: int | None) -> str:
    return "as planned" if gamma is None else "none"


async def _times(client: Client, prompt: Prompt, gamma: int | None, max_tokens: int) -> list[float]:
    """Return the seconds to the first tokens of an answer and then between any two arrivals."""
    options = GenerateOptions(max_tokens=max_tokens, gamma=gamma, ignore_eog=True, seed=1)
    answer = await ask_one(client, prompt, options)
    # Tokens that arrive together have the same time.
    times_s = dict.fromkeys((answer.asked_s, *answer.token_s))
    return [after - before for before, after in pairwise(times_s)]
