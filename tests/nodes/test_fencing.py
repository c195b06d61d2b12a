"""Targets that were stopped, and go on when their streams are elsewhere: it changes nothing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from nodes.client.client import Client
from nodes.client.generation import GenerateOptions
from nodes.coordinator.service import Coordinator
from nodes.engine.load import TOY_COSTS
from nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from nodes.target.node import TargetNode
from tests.harness.memory_transport import MemoryHub
from tests.nodes.coordinator.test_poison import INNOCENTS, make_case
from tests.nodes.memory_mesh import Eventually, ask, check
from tests.nodes.pure_cluster import PureCluster

# -- pure states -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Zombie:
    """A process that was stopped, with the connection that it had."""

    peer: bytes
    engine: Any
    inbox: deque[Any]
    outbox: deque[Any]


class ZombieCluster(PureCluster):
    """Targets are stopped instead of dying, and wake up some time later."""

    zombies: tuple[Zombie, ...] = ()
    num_woken = num_refused = 0

    def _die(self, node: Any) -> None:
        if node.role != "target":
            super()._die(node)
            return
        self.deaths_left -= 1
        zombie = Zombie(node.peer, node.engine, node.inbox, node.outbox)
        self.zombies = (*self.zombies, zombie)
        node.peer, node.engine = b"", None
        node.inbox, node.outbox = deque(), deque()
        self._carry_out(self.state.peer_gone(zombie.peer, self.now))

    def _rare_moves(self) -> list[Callable[[], None]]:
        moves = super()._rare_moves()
        return moves + [partial(self._wake, zombie) for zombie in self.zombies] if moves else []

    def _wake(self, zombie: Zombie) -> None:
        """It does what it was asked to do, and says what it had to say."""
        self.zombies = tuple(other for other in self.zombies if other is not zombie)
        self.num_woken += 1
        node = self.targets[0]
        real = node.peer, node.is_in, node.engine, node.inbox, node.outbox
        node.peer, node.is_in, node.engine = zombie.peer, True, zombie.engine
        node.inbox, node.outbox = zombie.inbox, zombie.outbox
        while node.inbox:
            self._node_takes(node)
        while node.engine.next_step(self.now) is not None:
            self._node_steps(node)
        node.peer, node.is_in, node.engine, node.inbox, node.outbox = real
        for message in zombie.outbox:
            before = self.state.num_stale
            assert self.state.on_message(zombie.peer, "", 0, message, 0, self.now) == []
            self.num_refused += self.state.num_stale - before


@pytest.mark.parametrize("seed", range(5))
def test_what_a_stopped_target_says_when_it_wakes_up_is_refused(seed: int) -> None:
    cluster = ZombieCluster(make_case(seed, INNOCENTS, 4))
    cluster.run()
    for zombie in cluster.zombies:
        cluster._wake(zombie)
    assert cluster.num_woken == 4
    assert cluster.num_refused > 0


# -- a mesh in memory ------------------------------------------------------------------------------


class Stoppable:
    """A connection whose process can be stopped: nothing goes in or out until it goes on."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._goes_on = asyncio.Event()
        self._goes_on.set()
        self._unsent: list[Any] = []
        self.num_late = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    async def recv(self) -> Any:
        await self._goes_on.wait()
        frames = await self._transport.recv()
        await self._goes_on.wait()
        return frames

    def send(self, frames: Any) -> None:
        if self._goes_on.is_set():
            self._transport.send(frames)
        else:
            self._unsent.append(frames)

    def stop(self) -> None:
        self._goes_on.clear()

    def go_on(self) -> None:
        self.num_late = len(self._unsent)
        for frames in self._unsent:
            self._transport.send(frames)
        self._unsent.clear()
        self._goes_on.set()


@pytest.mark.slow
async def test_a_target_that_was_stopped_changes_no_text_when_it_goes_on(
    eventually: Eventually,
) -> None:
    hub = MemoryHub()
    coordinator = Coordinator(hub.server(), heartbeat_interval_s=0.05, heartbeat_timeout_s=2.0)
    lines = {name: Stoppable(hub.client()) for name in ("a", "b")}
    client = Client(hub.client(), endpoint="memory", rejoins=True)

    def target(name: str) -> TargetNode:
        # So slow that it has tokens to tell of when it is stopped at its first ones.
        model, tokenizer = ToyModel(ToyConfig(pass_s=0.005)), ToyTokenizer(96)
        line: Any = lines[name]
        return TargetNode(line, model, tokenizer, TOY_COSTS, endpoint="memory", node=name)

    tasks = [
        asyncio.create_task(running)
        for running in (coordinator.run(), target("a").run(), target("b").run(), client.run())
    ]
    try:
        state = coordinator.state
        await eventually(lambda: len(state._roster.nodes("target")) == 2)
        options = GenerateOptions(max_tokens=300, gamma=0, ignore_eog=True, seed=5)
        stopped: list[Stoppable] = []

        def stop_one() -> None:
            if not stopped:
                name = state._serving.ledger.target_of(next(iter(state._serving.ledger.streams)))
                stopped.append(lines[name])
                lines[name].stop()

        check(await ask(client, options, on_tokens=stop_one), options, "several devices")
        await eventually(lambda: len(state._roster.nodes("target")) == 1)
        # It had gone on for a while, and says so now.
        before = state.num_stale
        stopped[0].go_on()
        assert stopped[0].num_late > 0
        await eventually(lambda: state.num_stale > before)
        await eventually(lambda: len(state._roster.nodes("target")) == 2)
        answers = await asyncio.gather(*(ask(client, options) for _ in range(3)))
        for answer in answers:
            check(answer, options, "several devices")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
