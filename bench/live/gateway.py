"""Cost of gateway, coordinator and wire beside a bare llama.cpp loop of the same numerics."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from statistics import median

from bench.bare import BareLoop
from bench.harness.up import up
from bench.load.asking import Endpoint, ask
from bench.load.figures import Asked, joint_rate
from bench.pairs import in_turns, paired_ratio
from nodes.catalog import DEFAULT_TARGET, Catalog, default_cache_dir
from nodes.config.settings import environment

_PROMPT_TOKENS = 16
_TOKEN_IDS = range(1000, 40_000)


def run_gateway(
    counts: Sequence[int],
    *,
    num_pairs: int,
    max_tokens: int,
    prompt_lengths: Sequence[int],
    report: Callable[[str], None],
) -> None:
    """Measure the default target without draft nodes and lookup, with one engine thread per side.

    report: receives each line as soon as it is measured.
    """
    path = Catalog(default_cache_dir(environment())).ensure(DEFAULT_TARGET)
    bare = BareLoop(path)
    try:
        with up("--draft", "none") as mesh:
            endpoint = Endpoint(url=mesh.url, model="")
            for count in counts:
                report(asyncio.run(_rates(bare, endpoint, num_pairs, count, max_tokens)))
            for length in prompt_lengths:
                report(asyncio.run(_first_token(bare, endpoint, num_pairs, length)))
    finally:
        bare.close()


async def _rates(
    bare: BareLoop, endpoint: Endpoint, num_pairs: int, num_streams: int, max_tokens: int
) -> str:
    """Return the rates of all streams in words, and their ratio in pairs."""

    async def of_bare(_turn: int) -> float:
        return await asyncio.to_thread(bare.measure, num_streams, max_tokens, _PROMPT_TOKENS)

    async def of_gateway(_turn: int) -> float:
        asked = (_ask(endpoint, _PROMPT_TOKENS, max_tokens) for _ in range(num_streams))
        return joint_rate([answer.token_s for answer in await asyncio.gather(*asked)])

    # The first pair warms up.
    _, *pairs = await in_turns(1 + num_pairs, of_bare, of_gateway)
    bare_rate, gateway_rate = (median(pair[k] for pair in pairs) for k in (0, 1))
    return (
        f"{num_streams} streams: {gateway_rate:.1f} tokens/s through the gateway, {bare_rate:.1f} "
        f"of the bare loop, {paired_ratio([(a, b) for a, b in pairs])} x in pairs"
    )


async def _first_token(bare: BareLoop, endpoint: Endpoint, num_pairs: int, num_tokens: int) -> str:
    """Return the times to the first token in words, and the median of their differences."""

    async def of_bare(_turn: int) -> float:
        return await asyncio.to_thread(bare.prefill_s, num_tokens)

    async def of_gateway(_turn: int) -> float:
        # Some tokens have no text of their own, so that a single one might not be seen.
        return (await _ask(endpoint, num_tokens, 8)).first_token_s

    _, *pairs = await in_turns(1 + num_pairs, of_bare, of_gateway)
    bare_s, gateway_s = (median(pair[k] for pair in pairs) for k in (0, 1))
    added_s = median(after - before for before, after in pairs)
    return (
        f"prompt of {num_tokens} tokens: first token after {gateway_s * 1e3:.1f} ms, "
        f"{bare_s * 1e3:.1f} ms in the bare loop; {added_s * 1e3:+.1f} ms (median of differences)"
    )


# Prompts are drawn anew each time, because a target keeps prompts that it has read.
_source = random.Random(1)


async def _ask(endpoint: Endpoint, num_prompt_tokens: int, max_tokens: int) -> Asked:
    prompt = [_source.choice(_TOKEN_IDS) for _ in range(num_prompt_tokens)]
    made = await ask(endpoint, prompt, max_tokens=max_tokens, temperature=0.0, seed=1)
    if made.error:
        raise RuntimeError(f"a request failed: {made.error}")
    return made
