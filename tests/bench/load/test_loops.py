"""Closed and open loops, with answers that cost nothing."""

import asyncio

from bench.load.figures import Asked
from bench.load.versus import arrivals, closed_loop, open_loop
from bench.load.workloads import NAMES, workload


async def test_a_closed_loop_asks_again_when_it_has_its_answer():
    asked, under_way, most = [], 0, 0

    async def ask(prompt, seed):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        asked.append((prompt, seed))
        return Asked(0.0, (1.0,))

    answers = await closed_loop(ask, ["a", "b", "c"], 2, 3)
    assert len(answers) == 6
    assert most == 2
    assert sorted(asked) == [("a", 0), ("a", 3), ("b", 1), ("b", 4), ("c", 2), ("c", 5)]


def test_arrivals_come_at_their_rate_and_are_the_same_each_time():
    times = arrivals(5.0, 1000.0, seed=3)
    assert times == arrivals(5.0, 1000.0, seed=3)
    assert times == sorted(times)
    assert 4500 < len(times) < 5500
    assert times[-1] < 1000.0


async def test_an_open_loop_does_not_wait_for_answers():
    gate = asyncio.Event()
    asked = []

    async def ask(prompt, seed):
        asked.append(seed)
        if len(asked) == 3:
            gate.set()
        await gate.wait()
        return Asked(0.0, (1.0,))

    async with asyncio.timeout(60):
        answers = await open_loop(ask, ["a"], [0.0, 0.001, 0.002])
    assert sorted(asked) == [0, 1, 2]
    assert len(answers) == 3


def test_every_workload_has_prompts_and_says_what_it_is():
    for name in NAMES:
        made = workload(name, 8)
        assert made.about
        assert len(set(made.prompts)) >= 4
        assert all(prompt.strip() == prompt and prompt for prompt in made.prompts)
        assert not any(prompt.startswith("source:") for prompt in made.prompts)
