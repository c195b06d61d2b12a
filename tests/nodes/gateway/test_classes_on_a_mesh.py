"""Several numerics classes behind a gateway: law 1 between targets.

The toys compute other bits than each other, which shows in every text.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nodes.engine.sampling import Sampling
from nodes.engine.toy import ToyConfig, ToyTokenizer
from tests.nodes.gateway.test_on_a_mesh import Asked, Body, gateway_on
from tests.nodes.memory_mesh import Members, Passing
from tests.nodes.reference import reference

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

AT_ONCE = 24


@dataclass(frozen=True)
class Kind:
    """What a target says it is, and the seed of what it computes."""

    model_hash: str
    numerics_class: str
    seed: int

    @property
    def config(self) -> ToyConfig:
        # Room for few, so that most requests wait.
        return ToyConfig(seed=self.seed, max_sequences=3)

    @property
    def model(self) -> Passing:
        said = {"model_hash": self.model_hash, "numerics_class": self.numerics_class}
        return Passing(self.config, **said)

    @property
    def fingerprint(self) -> str:
        return f"fp_{self.model_hash[:8]}_{self.numerics_class[:8]}"

    def text(self, body: Body) -> str:
        """What this kind answers, alone."""
        ids = ToyTokenizer(self.config.num_vocab).encode(body["prompt"])
        sampling = Sampling(temperature=body["temperature"], seed=body["seed"])
        return reference(self.config, ids, sampling, max_tokens=body["max_tokens"]).text.decode()


A = Kind("11" * 32, "aaaa" * 4, 1)
B = Kind("11" * 32, "bbbb" * 4, 2)


@contextlib.asynccontextmanager
async def gateway(tmp_path: Path, *kinds: Kind) -> AsyncIterator[Asked]:
    made = Members(ToyConfig())
    made.start_coordinator()
    for kind in kinds:
        made.start_target(kind.numerics_class, kind.model)
    try:
        names = {kind.numerics_class for kind in kinds}
        async with gateway_on(made, tmp_path, names=names) as asked:
            yield asked
        for name, task in made.tasks.items():
            assert not task.done(), f"{name} ended: {task}"
    finally:
        for task in made.tasks.values():
            task.cancel()
        await asyncio.gather(*made.tasks.values(), return_exceptions=True)


def bodies(num: int) -> list[Body]:
    return [
        {"prompt": f"question {n}", "seed": n, "max_tokens": 1 + n % 9, "temperature": 0.9}
        for n in range(num)
    ]


async def ask(asked: Asked, body: Body) -> tuple[str, str]:
    """Text and fingerprint; streamed or not, as the seed would have it."""
    if body["seed"] % 2:
        answer = await asked.answer(body)
        return answer["choices"][0]["text"], answer["system_fingerprint"]
    async with asked.streamed(body) as stream:
        await stream.read()
    (fingerprint,) = stream.fingerprints
    return stream.texts[0], fingerprint


async def ask_thrice(asked: Asked, questions: list[Body]) -> list[tuple[str, str]]:
    """What each is answered, which is the same three times, among others and in other orders."""
    found: list[set[tuple[str, str]]] = [set() for _ in questions]
    for attempt in range(3):
        order = random.Random(attempt)
        todo = iter(order.sample(range(len(questions)), len(questions)))

        async def worker(todo: Any = todo) -> None:
            for index in todo:
                found[index].add(await ask(asked, questions[index]))

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(worker())
    answers = []
    for each in found:
        (answer,) = each
        answers.append(answer)
    return answers


def of(kind: Kind, questions: list[Body]) -> list[tuple[str, str]]:
    """What a kind answers, alone."""
    return [(kind.text(body), kind.fingerprint) for body in questions]


async def test_requests_have_one_text_and_fingerprint_whatever_the_load(tmp_path: Path) -> None:
    async with gateway(tmp_path, B, A) as asked:
        questions = bodies(200)
        assert await ask_thrice(asked, questions) == of(A, questions)
        questions = [{**body, "system_fingerprint": B.fingerprint} for body in bodies(30)]
        assert await ask_thrice(asked, questions) == of(B, questions)
