"""Cost of gateway, coordinator and wire beside a bare llama.cpp loop of the same numerics."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import closing
from statistics import median

import click

from airdraft.nodes.catalog import DEFAULT_TARGET
from bench.bare import BareLoop
from bench.harness.up import up
from bench.load.asking import Endpoint, ask
from bench.load.figures import Asked, joint_rate
from bench.options import COUNTS, max_tokens_option, model_file, pairs_option, streams_option
from bench.pairs import in_turns, paired_ratio

_PROMPT_TOKENS = 16
_TOKEN_IDS = range(1000, 40_000)


@click.command("gateway")
@streams_option("1,16")
@pairs_option
@max_tokens_option
@click.option("--prompts", type=COUNTS, default="32,256", help="Lengths of prompts in tokens.")
def gateway_command(streams: list[int], pairs: int, max_tokens: int, prompts: list[int]) -> None:
    """Compare gateway and mesh with a bare llama.cpp loop.

    Tokens/s and the time to the first token are compared. The default target decodes without draft
    nodes and lookup, with one engine thread per side.

    \b
    Example:
      python -m bench live gateway --streams 1 --pairs 3
    """
    path = model_file(DEFAULT_TARGET)
    with closing(BareLoop(path)) as bare, up("--draft", "none", "--no-lookup") as mesh:
        endpoint = Endpoint(url=mesh.url, model="")

        def bare_rate(count: int) -> float:
            return bare.measure(count, max_tokens, _PROMPT_TOKENS)

        async def rate(count: int) -> float:
            asked = (_ask(endpoint, _PROMPT_TOKENS, max_tokens) for _ in range(count))
            return joint_rate([answer.token_s for answer in await asyncio.gather(*asked)])

        async def first_token_s(length: int) -> float:
            # Some tokens have no text of their own, so that a single one might not be seen.
            return (await _ask(endpoint, length, 8)).first_token_s

        for count in streams:
            found = asyncio.run(_in_pairs(pairs, count, bare_rate, rate))
            bare_median, gateway_median = (median(pair[k] for pair in found) for k in (0, 1))
            click.echo(
                f"{count} streams: {gateway_median:.1f} tokens/s through the gateway, "
                f"{bare_median:.1f} of the bare loop, {paired_ratio(found)} x in pairs"
            )
        for length in prompts:
            found = asyncio.run(_in_pairs(pairs, length, bare.prefill_s, first_token_s))
            bare_ms, gateway_ms = (median(pair[k] for pair in found) * 1e3 for k in (0, 1))
            added_ms = median(after - before for before, after in found) * 1e3
            click.echo(
                f"prompt of {length} tokens: first token after {gateway_ms:.1f} ms, {bare_ms:.1f} "
                f"ms in the bare loop; {added_ms:+.1f} ms (median of differences)"
            )


async def _in_pairs(
    num_pairs: int,
    amount: int,
    bare: Callable[[int], float],
    gateway: Callable[[int], Awaitable[float]],
) -> list[tuple[float, float]]:
    """Returns pairs of what both sides give for an amount; one more pair warms up before."""
    sides = lambda _: asyncio.to_thread(bare, amount), lambda _: gateway(amount)
    _, *pairs = await in_turns(1 + num_pairs, *sides)
    return [(a, b) for a, b in pairs]


# Prompts are drawn anew each time, because a target keeps prompts that it has read.
_source = random.Random(1)


async def _ask(endpoint: Endpoint, num_prompt_tokens: int, max_tokens: int) -> Asked:
    prompt = [_source.choice(_TOKEN_IDS) for _ in range(num_prompt_tokens)]
    made = await ask(endpoint, prompt, max_tokens=max_tokens)
    if made.error:
        raise RuntimeError(f"a request failed: {made.error}")
    return made
