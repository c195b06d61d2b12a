"""Cost of gateway, coordinator and wire beside a bare llama.cpp loop of the same numerics."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from bench.bare import BareLoop
from bench.harness.http import COMPLETIONS, port_of, request_of
from bench.harness.up import up
from bench.live.pairs import Ratio, paired_ratio
from nodes.catalog import DEFAULT_TARGET, Catalog, default_cache_dir
from nodes.config.settings import environment

_PROMPT_TOKENS = 16
_TOKEN_IDS = range(1000, 40_000)


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of all streams. tokens_per_s: bare loop, gateway. ratio: gateway to bare, in pairs."""

    num_streams: int
    tokens_per_s: tuple[float, float]
    ratio: Ratio

    def __str__(self) -> str:
        bare, gateway = self.tokens_per_s
        return (
            f"{self.num_streams} streams: {gateway:.1f} tokens/s through the gateway, {bare:.1f} "
            f"of the bare loop, {self.ratio} x in pairs"
        )


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Times to the first token. prefill_s: that of the bare loop. first_token_s: that of the
    gateway. added_s: median of their differences."""

    num_prompt_tokens: int
    prefill_s: float
    first_token_s: float
    added_s: float

    def __str__(self) -> str:
        return (
            f"prompt of {self.num_prompt_tokens} tokens: first token after "
            f"{self.first_token_s * 1e3:.1f} ms, {self.prefill_s * 1e3:.1f} ms in the bare loop; "
            f"{self.added_s * 1e3:+.1f} ms (median of differences)"
        )


def run_overhead(
    counts: Sequence[int],
    *,
    num_pairs: int,
    max_tokens: int,
    prompt_lengths: Sequence[int],
    report: Callable[[object], None],
) -> None:
    """Measure the default target without draft nodes and lookup, with one engine thread per side.

    report: receives each figure as soon as it is measured.
    """
    path = Catalog(default_cache_dir(environment())).ensure(DEFAULT_TARGET)
    bare = BareLoop(path)
    try:
        with up("--draft", "none") as mesh:
            bench = _Bench(bare, port_of(mesh.url), num_pairs, max_tokens)
            for count in counts:
                report(asyncio.run(bench.rates(count)))
            for length in prompt_lengths:
                report(asyncio.run(bench.first_token(length)))
    finally:
        bare.close()


class _Bench:
    def __init__(self, bare: BareLoop, port: int, num_pairs: int, max_tokens: int) -> None:
        self._bare = bare
        self._port = port
        self._num_pairs = num_pairs
        self._max_tokens = max_tokens
        # Prompts are drawn anew each time, because a target keeps prompts that it has read.
        self._source = random.Random(1)

    async def rates(self, num_streams: int) -> Rates:
        pairs = await self._pairs(
            partial(self._bare.measure, num_streams, self._max_tokens, _PROMPT_TOKENS),
            partial(self._gateway_rate, num_streams),
        )
        bare, gateway = map(median, zip(*pairs, strict=True))
        return Rates(num_streams, (bare, gateway), paired_ratio(pairs))

    async def first_token(self, num_tokens: int) -> FirstToken:
        pairs = await self._pairs(
            partial(self._bare.prefill_s, num_tokens), partial(self._gateway_first_s, num_tokens)
        )
        prefill_s, first_s = map(median, zip(*pairs, strict=True))
        added_s = median(first - prefill for prefill, first in pairs)
        return FirstToken(num_tokens, prefill_s, first_s, added_s)

    async def _pairs(
        self, bare: Callable[[], float], gateway: Callable[[], Awaitable[float]]
    ) -> list[tuple[float, float]]:
        """Measure both sides in changing order; the first pair warms up and does not count."""
        pairs = []
        for turn in range(1 + self._num_pairs):
            if turn % 2:
                bare_value, gateway_value = await asyncio.to_thread(bare), await gateway()
            else:
                gateway_value, bare_value = await gateway(), await asyncio.to_thread(bare)
            pairs.append((bare_value, gateway_value))
        return pairs[1:]

    async def _gateway_rate(self, num_streams: int) -> float:
        """Return all streams' tokens/s from when the last one begins to when the first one ends."""
        times = await asyncio.gather(
            *(self._ask(_PROMPT_TOKENS, self._max_tokens) for _ in range(num_streams))
        )
        began, ended = max(t[0] for t in times), min(t[-1] for t in times)
        return sum(sum(began < at <= ended for at in t) for t in times) / (ended - began)

    async def _gateway_first_s(self, num_tokens: int) -> float:
        sent_at = time.perf_counter()
        (first_at,) = await self._ask(num_tokens, 1)
        return first_at - sent_at

    async def _ask(self, num_prompt_tokens: int, max_tokens: int) -> list[float]:
        """Send a request; return the time of each event with a token's text."""
        prompt = [self._source.choice(_TOKEN_IDS) for _ in range(num_prompt_tokens)]
        body = {
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(request_of(COMPLETIONS, body))
        times: list[float] = []
        while (line := await reader.readline()) and line != b"data: [DONE]\n":
            if b'"finish_reason":null' in line:
                times.append(time.perf_counter())
        writer.close()
        # A token that ends within a character has no event: its text comes with the next token.
        return times
