"""Targets that were stopped, and go on when their streams are elsewhere: it changes nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from nodes.client.generation import GenerateOptions
from nodes.engine.toy import ToyModel
from tests.nodes.builders import make_submit
from tests.nodes.machine.setup import Setup, draft
from tests.nodes.machine.world import TIMEOUT_S, World
from tests.nodes.memory_mesh import PROMPT, Wrapped, ask, begun, check, mesh, status_once


@pytest.mark.parametrize("seed", range(5))
def test_what_a_stopped_target_says_when_it_wakes_up_is_refused(seed: int) -> None:
    world = World(Setup(target_cells=(600, 600), drafts=(draft(0.9),), seed=seed))
    client = world.join()
    for number in range(1, 7):
        world.submit(client, make_submit(number, max_tokens=100, ignore_eog=True))
    world.go_on(200)
    zombie = next(node for node in world.nodes("target") if node.node.num_streams)
    zombie.is_stopped = True
    world.pass_by(2 * TIMEOUT_S)
    status = world.status()
    assert status is not None
    assert [n.state for n in status.nodes if n.name == zombie.name] == ["left"]
    # It does what it was asked to do, and says so.
    num_stale = world.coordinator.state.reporting.num_stale
    zombie.is_stopped = False
    for _ in range(10):
        zombie.step()
    world.settle()
    assert world.coordinator.state.reporting.num_stale >= num_stale + 10
    assert all(asked.is_whole for asked in client.asked.values())


# -- a mesh in memory ------------------------------------------------------------------------------


class Stoppable(Wrapped):
    """A connection whose process can be stopped: nothing goes in or out until it goes on."""

    def __init__(self, transport: Any) -> None:
        super().__init__(transport)
        self._goes_on = asyncio.Event()
        self._goes_on.set()
        self._unsent: list[Any] = []
        self.num_late = 0

    async def recv(self) -> Any:
        await self._goes_on.wait()
        frames = await self.transport.recv()
        await self._goes_on.wait()
        return frames

    def send(self, frames: Any) -> None:
        if self._goes_on.is_set():
            self.transport.send(frames)
        else:
            self._unsent.append(frames)

    def stop(self) -> None:
        self._goes_on.clear()

    def go_on(self) -> None:
        self.num_late = len(self._unsent)
        for frames in self._unsent:
            self.transport.send(frames)
        self._unsent.clear()
        self._goes_on.set()


@pytest.mark.slow
async def test_a_target_that_was_stopped_changes_no_text_when_it_goes_on() -> None:
    # So slow that a target has tokens to tell of when it is stopped at its first ones.
    toy = {"pass_s": 0.005}
    async with mesh(through=Stoppable, timeout_s=2.0, **toy) as made:
        made.start_target("other", ToyModel(made.config), Stoppable)
        client = await made.join()
        options = GenerateOptions(max_tokens=300, gamma=0, ignore_eog=True, seed=5)
        asking = await begun(client, options)
        stopped = "other" if made.is_empty() else "target"
        line: Stoppable = made.transports[stopped]
        line.stop()
        check(await asking, options, PROMPT, **toy)
        await made.wait_for(client, made.nodes - {stopped})
        # It had gone on for a while, and says so now.
        num_stale = (await client.status()).totals.num_stale
        line.go_on()
        assert line.num_late > 0
        await made.wait_for(client, made.nodes)
        await status_once(client, lambda status: status.totals.num_stale > num_stale)
        for answer in await asyncio.gather(*(ask(client, options) for _ in range(3))):
            check(answer, options, PROMPT, **toy)
