"""When requests are sent, with answers that cost nothing, and what is asked."""

import asyncio

from bench.load.figures import Asked
from bench.load.versus import arrivals, ask_at
from bench.load.workloads import NAMES, workload


def test_arrivals_come_at_their_rate_and_are_the_same_each_time():
    times = arrivals(5.0, 1000.0, seed=3)
    assert times == arrivals(5.0, 1000.0, seed=3)
    assert times == sorted(times)
    assert 4500 < len(times) < 5500
    assert times[-1] < 1000.0


async def test_requests_do_not_wait_for_answers():
    gate = asyncio.Event()
    asked = []

    async def ask(prompt, seed):
        asked.append(seed)
        if len(asked) == 3:
            gate.set()
        await gate.wait()
        return Asked(0.0, (1.0,))

    async with asyncio.timeout(60):
        answers = await ask_at(ask, ["a"], [0.0, 0.001, 0.002])
    assert sorted(asked) == [0, 1, 2]
    assert len(answers) == 3


def test_every_workload_has_prompts():
    for name in NAMES:
        made = workload(name, 8)
        assert len(set(made.prompts)) >= 4
        assert all(prompt.strip() == prompt and prompt for prompt in made.prompts)
        assert not any(prompt.startswith("source:") for prompt in made.prompts)
