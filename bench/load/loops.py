"""When requests are sent: a closed loop of some streams, or arrivals at a rate."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence

from bench.load.figures import Asked

Ask = Callable[[str, int], Awaitable[Asked]]


async def closed_loop(
    ask: Ask, prompts: Sequence[str], num_streams: int, num_each: int
) -> list[Asked]:
    """Run num_streams users; each sends num_each requests, one after the other.

    ask: takes a prompt and a seed and sends the request.
    """

    async def user(number: int) -> list[Asked]:
        answers = []
        for turn in range(num_each):
            index = turn * num_streams + number
            answers.append(await ask(prompts[index % len(prompts)], index))
        return answers

    each = await asyncio.gather(*(user(number) for number in range(num_streams)))
    return [answer for answers in each for answer in answers]


def arrivals(rate_per_s: float, seconds: float, seed: int) -> list[float]:
    """Return times of a Poisson process from 0 on; a seed gives every system the same times."""
    source = random.Random(seed)
    times: list[float] = []
    at = source.expovariate(rate_per_s)
    while at < seconds:
        times.append(at)
        at += source.expovariate(rate_per_s)
    return times


async def open_loop(ask: Ask, prompts: Sequence[str], times: Sequence[float]) -> list[Asked]:
    """Send requests at the given times, however many are still being answered."""
    began = time.perf_counter()

    async def one(index: int, at: float) -> Asked:
        await asyncio.sleep(max(0.0, at - (time.perf_counter() - began)))
        return await ask(prompts[index % len(prompts)], index)

    return list(await asyncio.gather(*(one(index, at) for index, at in enumerate(times))))
