"""Members of a mesh that die or stop under requests: no token changes, no place stays taken."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh.codec import decode
from mesh.messages import Bye
from nodes.client.generation import GenerateOptions
from nodes.engine.rules import LogitBias, LogitRules
from nodes.engine.toy import ToyModel
from nodes.messages import CommitReply
from nodes.worker.link import STOPS
from tests.nodes.memory_mesh import (
    PROMPT,
    Eventually,
    Members,
    Wrapped,
    ask,
    begun,
    check,
    mesh,
    status_once,
)


def sent_by(made: Members, name: str) -> list[Any]:
    """Every message that a member sends from now on."""
    sent: list[Any] = []
    transport = made.transports[name]
    send = transport.send
    transport.send = lambda frames: (sent.append(decode(frames).message), send(frames))
    return sent


@pytest.mark.slow
async def test_requests_outlive_their_coordinators(eventually: Eventually) -> None:
    toy = {"eog_rate": 0.0005, "num_cells": 20_000}
    rules = LogitRules((LogitBias(2, 1.0),), 0.5, 0.1)
    requests: list[tuple[Any, GenerateOptions]] = [
        (PROMPT, GenerateOptions(max_tokens=1500, gamma=4)),
        ((7, 8, 9), GenerateOptions(max_tokens=1000, temperature=1.0, seed=4, num_choices=3)),
        (
            "stop",
            GenerateOptions(max_tokens=1200, temperature=0.9, seed=1, stops=("42 17", " 7 7")),
        ),
        ("rules", GenerateOptions(max_tokens=900, temperature=0.8, seed=2, rules=rules)),
        ("scores", GenerateOptions(max_tokens=300, num_logprobs=1, scores_prompt=True)),
    ]
    async with mesh(0.8, **toy) as made:
        client = await made.join()
        num_seen = 0

        def saw() -> None:
            nonlocal num_seen
            num_seen += 1

        jobs = [
            asyncio.create_task(ask(client, options, prompt, saw)) for prompt, options in requests
        ]
        for _ in range(3):
            num_before = num_seen
            await eventually(lambda n=num_before: num_seen > n + 40)
            await made.kill("coordinator")
            made.start_coordinator()
        for (prompt, options), answers in zip(requests, await asyncio.gather(*jobs), strict=True):
            check(answers, options, prompt, **toy)
        await made.wait_for(client, {"target", "draft-0"})
        assert made.is_empty()


async def test_a_request_that_outlived_its_coordinator_can_be_given_up(
    eventually: Eventually,
) -> None:
    async with mesh(0.8) as made:
        client = await made.join()
        asking = await begun(client, GenerateOptions(max_tokens=3000, gamma=4))
        await made.kill("coordinator")
        await eventually(lambda: not client.is_joined)
        made.start_coordinator()
        await made.wait_for(client, {"target", "draft-0"})
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await eventually(made.is_empty)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["target", "draft-0"])
async def test_a_node_that_stops_says_so_behind_all_that_it_has_done(name: str) -> None:
    async with mesh(0.8) as made:
        client = await made.join()
        options = GenerateOptions(max_tokens=900, gamma=4, num_choices=2, seed=3)
        asking = await begun(client, options)
        sent = sent_by(made, name)
        for _ in range(4):
            # Whatever it is doing then.
            await asyncio.sleep(0.005)
        await made.stop(name)
        assert isinstance(sent[-1], Bye)
        assert sent[-1].reason == STOPS
        assert not any(isinstance(message, Bye) for message in sent[:-1])
        if name == "target":
            made.model = ToyModel(made.config)
            made.start_target()
        check(await asking, options, PROMPT)


class Lossy(Wrapped):
    """Loses some of the commits that go through it, by their numbers."""

    _num_commits = 0

    def send(self, frames: Any) -> None:
        if isinstance(decode(frames).message, CommitReply):
            self._num_commits += 1
            if self._num_commits in (5, 12, 13, 40):
                return
        self.transport.send(frames)


async def test_texts_of_which_commits_were_lost_are_what_they_are_alone() -> None:
    # So slow that the coordinator mostly hears of a loss before the next one.
    async with mesh(through=Lossy, pass_s=0.002) as made:
        client = await made.join()
        options = GenerateOptions(
            max_tokens=80, temperature=0.8, seed=3, gamma=0, ignore_eog=True, num_choices=2
        )
        check(await ask(client, options), options, PROMPT)
        status = await status_once(client, lambda status: status.totals.requests["done"] > 0)
        (target,) = status.targets
        # Of both choices, or of those that were in the pass; what a target says of a text until it
        # hears that it is opened anew may be lost for nothing.
        assert 1 <= target.counts.num_reopened <= 8
