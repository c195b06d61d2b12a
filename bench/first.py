"""Time to the first token beside a bare prefill of the same length, and the gaps after it."""

from __future__ import annotations

import asyncio
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from random import Random

import click

from bench.asking import Pair, ask_one
from bench.bare import BareLoop
from bench.harness.report import head, quantiles, row
from bench.load.workloads import PLAIN_NAMES, workload
from bench.options import (
    COUNTS,
    at_least,
    draft_option,
    max_tokens_option,
    target_option,
    workloads_option,
)
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


@click.command("first")
@click.option("--lengths", type=COUNTS, default="32,256,1024", help="Of prompts, in tokens.")
@at_least("--repeats", 5, "Prompts of each length and kind.")
@max_tokens_option
@workloads_option(PLAIN_NAMES, "chat,code", "Kinds of prompts whose gaps are measured.")
@target_option
@draft_option
def first_command(
    lengths: list[int], repeats: int, max_tokens: int, workloads: list[str], target: str, draft: str
) -> None:
    """Measure the time to the first token, and the gaps between tokens.

    The first token is compared with a bare llama.cpp loop that reads as long a prompt.

    \b
    Example:
      python -m bench first --target big.gguf --draft small.gguf --lengths 64,1024
    """

    async def measure() -> None:
        engine, other = Pair(target, draft).settings()
        with closing(BareLoop(Path(engine.model))) as bare:
            async with local_mesh(engine, other, lookup=True) as (mesh, client):
                await mesh.beside(_times(client, (1, 2, 3), None, 24))
                click.echo(FIRST_HEAD)
                for length in lengths:
                    click.echo(await mesh.beside(_first_rows(client, bare, length, repeats)))
                click.echo(GAPS_HEAD)
                for kind in workloads:
                    click.echo(await mesh.beside(_gap_rows(client, kind, repeats, max_tokens)))

    asyncio.run(measure())


async def _first_rows(client: Client, bare: BareLoop, length: int, repeats: int) -> str:
    random = Random(length)
    bare_s: list[float] = []
    first_s: dict[int | None, list[float]] = {0: [], None: []}
    for _ in range(repeats):
        bare_s.append(await asyncio.to_thread(bare.prefill_s, length))
        for gamma, found in first_s.items():
            prompt = tuple(random.choice(_IDS) for _ in range(length))
            found.append((await _times(client, prompt, gamma, 8))[0])
    prefill_s = quantiles(bare_s)[0]
    limit_s = 1.1 * prefill_s + 0.015
    lines = []
    for gamma, found in first_s.items():
        median_s = quantiles(found)[0]
        limit = f"{'kept' if median_s <= limit_s else 'missed'}: {limit_s * 1e3:.0f}"
        times = (f"{seconds * 1e3:.0f}" for seconds in (prefill_s, median_s))
        lines.append(row(length, _named(gamma), *times, limit))
    return "\n".join(lines)


async def _gap_rows(client: Client, kind: str, repeats: int, max_tokens: int) -> str:
    gaps_s: dict[int | None, list[float]] = {0: [], None: []}
    for text in workload(kind, repeats).prompts:
        for gamma, found in gaps_s.items():
            prompt = (ChatMessage("user", text),)
            found += (await _times(client, prompt, gamma, max_tokens))[1:]
    return "\n".join(
        row(kind, _named(gamma), *(f"{seconds * 1e3:.0f}" for seconds in quantiles(found)))
        for gamma, found in gaps_s.items()
    )


def _named(gamma: int | None) -> str:
    return "as planned" if gamma is None else "none"


async def _times(client: Client, prompt: Prompt, gamma: int | None, max_tokens: int) -> list[float]:
    """Return the seconds to the first tokens of an answer and then between any two arrivals."""
    options = GenerateOptions(max_tokens=max_tokens, gamma=gamma, ignore_eog=True, seed=1)
    answer = await ask_one(client, prompt, options)
    # Tokens that arrive together have the same time.
    times_s = dict.fromkeys((answer.asked_s, *answer.token_s))
    return [after - before for before, after in pairwise(times_s)]
