"""A mesh in memory in which what a target says does not always arrive."""

from __future__ import annotations

import asyncio
from typing import Any

from mesh.codec import decode
from nodes.client.client import Client
from nodes.client.generation import GenerateOptions
from nodes.coordinator.service import Coordinator
from nodes.engine.load import TOY_COSTS
from nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from nodes.messages import CommitReply
from nodes.target.node import TargetNode
from tests.harness.memory_transport import MemoryHub
from tests.nodes.memory_mesh import Eventually, ask, check


class Lossy:
    """Loses some of the commits that go through it, by their numbers."""

    def __init__(self, transport: Any, lost: set[int]) -> None:
        self._transport = transport
        self._lost = lost
        self.num_commits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def send(self, frames: Any) -> None:
        if isinstance(decode(frames).message, CommitReply):
            self.num_commits += 1
            if self.num_commits in self._lost:
                return
        self._transport.send(frames)


async def test_texts_of_which_commits_were_lost_are_what_they_are_alone(
    eventually: Eventually,
) -> None:
    hub = MemoryHub()
    coordinator = Coordinator(hub.server(), heartbeat_interval_s=0.05, heartbeat_timeout_s=60.0)
    line: Any = Lossy(hub.client(), {5, 12, 13, 40})
    target = TargetNode(
        line,
        # So slow that the coordinator mostly hears of a loss before the next one.
        ToyModel(ToyConfig(pass_s=0.002)),
        ToyTokenizer(96),
        TOY_COSTS,
        endpoint="memory",
        node="target",
        prefix_cache_bytes=100_000,
    )
    client = Client(hub.client(), endpoint="memory")
    tasks = [
        asyncio.create_task(running) for running in (coordinator.run(), target.run(), client.run())
    ]
    try:
        await eventually(lambda: coordinator.state._roster.nodes("target"))
        options = GenerateOptions(
            max_tokens=80, temperature=0.8, seed=3, gamma=0, ignore_eog=True, num_choices=2
        )
        check(await ask(client, options), options, "several devices")
        (scheduler,) = coordinator.state.schedulers
        # Of both choices, or of those that were in the pass; what a target says of a text until it
        # hears that it is opened anew may be lost for nothing.
        assert 1 <= scheduler.counts.num_reopened <= 8
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
