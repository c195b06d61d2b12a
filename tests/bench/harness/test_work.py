"""Streams that ask one request after another, and how each request ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from bench.harness import work
from bench.harness.cases import Case, toy_cases
from bench.harness.history import faults_of
from bench.harness.work import Load, ask
from nodes.client.client import RequestFailedError
from nodes.client.generation import GenerateOptions, Prompt
from nodes.messages import FinishedNotice, StartedNotice, StreamFigures, TokensNotice

Eventually = Callable[..., "asyncio.Future[None]"]
FIGURES = StreamFigures(0, 0, 0, 0, 0, 0, "")


class Canned:
    """A client that answers rightly but where it is told otherwise."""

    def __init__(self, cases: list[Case]) -> None:
        self._cases = cases
        self.num_now = 0
        self.failure: Exception | None = None
        self.hangs = False

    async def generate(self, prompt: Prompt, options: GenerateOptions) -> AsyncIterator[Any]:
        asked = replace(options, timeout_s=None)
        case = next(c for c in self._cases if c.prompt == prompt and c.options == asked)
        self.num_now += 1
        try:
            yield StartedNotice(1, 1, 3, True, "t", "", True)
            await asyncio.sleep(0)
            if self.failure is not None:
                raise self.failure
            if self.hangs:
                await asyncio.Event().wait()
            for choice, expected in enumerate(case.expected):
                yield TokensNotice(1, choice, 0, expected.text, expected.token_ids)
                count = len(expected.token_ids)
                yield FinishedNotice(1, choice, count, expected.finish_reason, FIGURES)
        finally:
            self.num_now -= 1


async def test_a_load_asks_as_many_at_once_as_it_is_told() -> None:
    asked: list[tuple[int, int]] = []
    under_way: set[int] = set()
    most_at_once = 0

    async def one(stream: int, number: int) -> bool:
        nonlocal most_at_once
        under_way.add(number)
        most_at_once = max(most_at_once, len(under_way))
        await asyncio.sleep(0)
        under_way.discard(number)
        asked.append((stream, number))
        return number % 2 == 0

    load, done = Load(one, 3, 20), list[int]()
    load.on_done = lambda: done.append(len(asked))
    await load.run()
    assert done == [20]
    assert most_at_once == 3
    assert {stream for stream, _ in asked} == {0, 1, 2}
    assert sorted(number for _, number in asked) == list(range(20))


async def test_a_load_that_is_stopped_ends_with_the_requests_under_way(
    eventually: Eventually,
) -> None:
    ended = 0

    async def one(_stream: int, _number: int) -> bool:
        nonlocal ended
        await asyncio.sleep(0)
        ended += 1
        return True

    load = Load(one, 3)
    running = asyncio.create_task(load.run())
    await eventually(lambda: ended >= 10)
    load.stop()
    num_ended = ended
    await running
    assert ended <= num_ended + 3


async def test_how_a_request_ended_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    (case,) = toy_cases(Random(1), 1, mean_tokens=5.0)
    client = Canned([case])
    seen: list[str] = []
    good = await ask(client, 0, case, 5.0, lambda record: seen.append(record.events[-1].what))
    assert (good.end, faults_of(good)) == ("finished", [])
    assert seen == [event.what for event in good.events]
    client.failure = RequestFailedError("unavailable", "no target")
    failed = await ask(client, 1, case, 5.0)
    assert (failed.end, failed.code, failed.reason) == ("failed", "unavailable", "no target")
    client.failure, client.hangs = None, True
    monkeypatch.setattr(work, "PATIENCE_S", 0.05)
    late = await ask(client, 2, case, 0.05)
    assert late.end == "late"
    assert client.num_now == 0
    assert late.ended_at_s - late.asked_at_s >= 0.1
