"""Short forms of `python -m bench chaos kills` and `many`, and their parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bench.chaos import work
from bench.chaos.cases import Case, toy_cases
from bench.chaos.history import Record
from bench.chaos.kills.storm import Storm, weather
from bench.chaos.kills.torment import draw
from bench.chaos.report import Tally
from bench.chaos.work import Load, ask
from nodes.client.client import RequestFailedError
from nodes.client.generation import GenerateOptions, Prompt
from nodes.messages import FinishedNotice, StartedNotice, StreamFigures, TokensNotice

Eventually = Callable[..., "asyncio.Future[None]"]
FIGURES = StreamFigures(0, 0, 0, 0, 0, 0, "")


class Canned:
    """A client that answers rightly but where it is told otherwise."""

    def __init__(self, cases: list[Case]) -> None:
        self._cases = cases
        self.most_at_once = self.num_now = 0
        self.failure: Exception | None = None
        self.hangs = False

    async def generate(self, prompt: Prompt, options: GenerateOptions) -> AsyncIterator[Any]:
        asked = replace(options, timeout_s=None)
        case = next(c for c in self._cases if c.prompt == prompt and c.options == asked)
        self.num_now += 1
        self.most_at_once = max(self.most_at_once, self.num_now)
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


def load_of(client: Canned, cases: list[Case], ended: list[Record], **more: Any) -> Load:
    return Load(
        [client],
        cases,
        Random(1),
        num_streams=3,
        deadline_s=5.0,
        on_end=ended.append,
        **more,
    )


async def test_a_load_asks_as_many_at_once_as_it_is_told(tmp_path: Path) -> None:
    cases = toy_cases(Random(1), 6, mean_tokens=5.0)
    client, ended = Canned(cases), list[Record]()
    load = load_of(client, cases, ended, num_requests=20)
    done = []
    load.on_done = lambda: done.append(len(ended))
    await load.run()
    assert done == [20]
    assert client.most_at_once == 3
    tally = Tally(1, tmp_path)
    for record in ended:
        tally.add(record)
    assert tally.is_good
    assert tally.ends == {"finished": 20}


async def test_a_load_that_is_stopped_ends_with_the_requests_under_way(
    eventually: Eventually,
) -> None:
    cases = toy_cases(Random(1), 6, mean_tokens=5.0)
    ended: list[Record] = []
    load = load_of(Canned(cases), cases, ended)
    running = asyncio.create_task(load.run())
    await eventually(lambda: len(ended) >= 10)
    load.stop()
    num_ended = len(ended)
    await running
    assert len(ended) <= num_ended + 3
    assert {record.end for record in ended} == {"finished"}


async def test_how_a_request_ended_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = toy_cases(Random(1), 1, mean_tokens=5.0)
    client = Canned(cases)
    client.failure = RequestFailedError("unavailable", "no target")
    failed = await ask(client, 1, cases[0], 5.0)
    assert (failed.end, failed.code, failed.reason) == ("failed", "unavailable", "no target")
    client.failure, client.hangs = None, True
    monkeypatch.setattr(work, "_PATIENCE_S", 0.05)
    late = await ask(client, 2, cases[0], 0.05)
    assert late.end == "late"
    assert client.num_now == 0
    assert late.ended_at_s - late.asked_at_s >= 0.1


def test_one_seed_draws_the_same_blows() -> None:
    def blows(seed: int) -> list[object]:
        random = Random(seed)
        return [draw(random, ("a", "b"), 0.5, 0.2) for _ in range(300)]

    assert blows(1) == blows(1)
    assert blows(1) != blows(2)
    stops = [blow for blow in blows(1) if blow.stop_s]
    assert 30 < len(stops) < 90
    assert all(0.1 <= blow.stop_s <= 6.0 for blow in stops)
    assert {blow.goes_on for blow in stops} == {True, False}


@pytest.mark.timeout(1800)
async def test_nothing_is_lost_under_kills_of_every_role(tmp_path: Path) -> None:
    storm = Storm(seed=8, num_streams=8, num_kills=80, mean_gap_s=0.15, folder=tmp_path)
    tally = await weather(storm, toy_cases(Random(10), 64))
    assert tally.is_good, str(tally)
    assert tally.ends["finished"] > 20
    killed = sum(n for what, n in tally.disturbances.items() if what.endswith("killed"))
    assert killed >= 80


async def test_many_short_requests_end_in_time(tmp_path: Path) -> None:
    storm = Storm(
        seed=9,
        num_streams=16,
        num_requests=300,
        mean_gap_s=0.5,
        deadline_s=30.0,
        folder=tmp_path,
    )
    tally = await weather(storm, toy_cases(Random(11), 64, mean_tokens=4.0))
    assert tally.is_good, str(tally)
    assert tally.num_requests == 300
