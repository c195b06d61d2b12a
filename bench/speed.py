"""The gain of guesses: a pair on one machine, with planned guesses and without, in turns."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from statistics import median
from typing import Any

import click

from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.config.settings import CoordinatorConfig
from airdraft.nodes.service.local import local_mesh
from bench.asking import Pair, Requests, plain_and_auto, rate, requests_of, taken_of, warm_up_of
from bench.harness.report import head, row
from bench.load.workloads import NAMES, workload
from bench.options import (
    at_least,
    draft_option,
    max_tokens_option,
    streams_option,
    target_option,
    workloads_option,
)
from bench.pairs import paired_ratio

HEAD = head(
    *("prompts", "streams", "plain tokens/s", "auto / plain, median (95 % interval)"),
    *("tokens a pass with guesses", "accepted", "same texts"),
)


@click.command("speed")
@streams_option("1,4")
@at_least("--prompts", 16, "Prompts of each kind.", "num_prompts")
@max_tokens_option
@at_least("--temperature", 0.0, least=0)
@workloads_option(NAMES, "chat,copy", "Kinds of prompts: chat, copy, code, json, agentic, ...")
@target_option
@draft_option
@click.option("--lookup/--no-lookup", "looks_up", default=True, help="Guesses from earlier texts.")
@click.option("--weights", type=click.Choice(["auto", "as-stored"]), default="auto")
def speed_command(
    streams: list[int],
    num_prompts: int,
    max_tokens: int,
    temperature: float,
    workloads: list[str],
    **pair: Any,
) -> None:
    """Compare planned guesses with plain decoding.

    A pair of models decodes the same prompts in both ways, in alternating order.

    \b
    Examples:
      python -m bench speed --streams 1 --prompts 8
      python -m bench speed --target big.gguf --draft small.gguf --workloads code,json
    """
    options = GenerateOptions(max_tokens=max_tokens, temperature=temperature, seed=1, top_p=0.95)
    asyncio.run(_report(Pair(**pair), streams, workloads, num_prompts, options))


async def _report(
    pair: Pair,
    counts: Sequence[int],
    kinds: Sequence[str],
    num_prompts: int,
    options: GenerateOptions,
) -> None:
    """Print a table of the ratio of the two rates, by workload and number of streams.

    The same prompts are answered with gamma auto and with gamma 0, one after the other.
    """
    click.echo(HEAD)
    target, draft = pair.settings()
    async with local_mesh(target, draft, config=CoordinatorConfig(prompt_lookup=pair.looks_up)) as (
        mesh,
        client,
    ):
        for kind in kinds:
            made = workload(kind, num_prompts)
            requests = requests_of(made, options)
            await mesh.beside(plain_and_auto(client, [warm_up_of(requests)]))
            for count in counts:
                groups = [requests[at : at + count] for at in range(0, len(requests), count)]
                click.echo(await mesh.beside(_row(client, made.name, count, groups)))


async def _row(client: MeshClient, kind: str, count: int, groups: Sequence[Requests]) -> str:
    turns = await plain_and_auto(client, groups)
    rates = [(rate(plain), rate(auto)) for plain, auto in turns]
    # A text may end at once.
    decoded = [pair for pair in rates if min(pair) > 0]
    ratio = paired_ratio(decoded) if decoded else "-"
    same = [
        a.token_ids == b.token_ids
        for plain, auto in turns
        for a, b in zip(plain, auto, strict=True)
    ]
    taken = taken_of(answer for _, auto in turns for answer in auto)
    tokens = (taken.num_rounds + taken.num_accepted) / max(1, taken.num_rounds)
    accepted = f"{taken.acceptance:.2f} of {taken.num_guesses}" if taken.num_guesses else "-"
    return row(
        *(kind, count, f"{median(plain for plain, _ in rates):.1f}", ratio),
        f"{tokens:.2f} in {taken.guessing_share:.2f} of passes",
        *(accepted, f"{sum(same)} of {len(same)}"),
    )
