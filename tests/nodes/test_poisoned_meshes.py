"""Requests that end targets, in meshes in virtual time, and targets that die of something else."""

from __future__ import annotations

import math

import pytest

from mesh.codec import decode
from mesh.transport import Frames
from nodes.engine.toy import ToyConfig
from nodes.messages import OpenStreamRequest
from tests.nodes.builders import make_submit
from tests.nodes.machine.client import Asked, ClientProcess
from tests.nodes.machine.network import Connection
from tests.nodes.machine.process import NodeProcess
from tests.nodes.machine.setup import Setup, draft
from tests.nodes.machine.world import World

pytestmark = pytest.mark.slow

POISON = (66, 66, 66)
INNOCENTS = tuple((1 + k, 2, 3, 4 + k) for k in range(16))
# In a mesh that is that old, deaths of targets are known to be rare.
_OLD_S = 2 * 86_400.0


class MortalWorld(World):
    """Targets die soon after they were given a text that begins with POISON, and come back."""

    def __init__(self, seed: int) -> None:
        self.failed: dict[int, str] = {}
        self.num_killed = 0
        self._doomed: set[Connection] = set()
        self._revives_at = math.inf
        toy = ToyConfig(num_cells=8000, max_sequences=20, seed=seed)
        room = {"num_cells": 8000, "max_sequences": 20}
        super().__init__(
            Setup(toy=toy, target_cells=(8000,) * 3, drafts=(draft(0.9, **room),), seed=seed)
        )
        self.network.took = self._took

    def _took(self, connection: Connection, _way: str, frames: Frames) -> None:
        message = decode(frames).message
        is_poison = isinstance(message, OpenStreamRequest) and message.token_ids[:3] == POISON
        if is_poison and any(p.connection is connection for p in self.nodes("target")):
            self._doomed.add(connection)

    def move(self, until: float = math.inf) -> None:
        super().move(until)
        for target in self.nodes("target"):
            if target.connection in self._doomed:
                self.num_killed += 1
                self.die(target)
        if self.now >= self._revives_at:
            self._revives_at = math.inf
            self.start_what_is_missing()

    def die(self, target: NodeProcess) -> None:
        """What it had said before arrives, and its next process is there some time later."""
        self.kill(target, loses=False, notice_s=0.0)
        self._revives_at = min(self._revives_at, self.now + 0.5)

    def ask(self, prompts: tuple[tuple[int, ...], ...]) -> ClientProcess:
        client = self.join()
        for number, prompt in enumerate(prompts):
            submit = make_submit(
                number,
                prompt_token_ids=prompt,
                max_tokens=20,
                temperature=1.0,
                seed=number,
                ignore_eog=True,
            )
            self.submit(client, submit)
        return client

    def on_failure(self, _client: ClientProcess, asked: Asked) -> None:
        assert asked.failure is not None
        self.failed[asked.submit.request_id] = asked.failure[0]


@pytest.mark.parametrize("place", range(0, 17, 3))
def test_a_poison_request_ends_few_targets_and_no_other_request(place: int) -> None:
    world = MortalWorld(seed=place)
    world.now += _OLD_S
    world.pass_by(3.0)
    world.ask((*INNOCENTS[:place], (*POISON, 5), *INNOCENTS[place:]))
    world.settle()
    assert world.failed == {place: "internal"}
    assert 0 < world.num_killed <= 3


def test_where_targets_die_at_random_nobody_is_accused() -> None:
    num_deaths = 0
    for seed in range(6):
        world = MortalWorld(seed)
        world.ask(INNOCENTS)
        for _ in range(20):
            world.go_on(world.random.randrange(300))
            targets = world.nodes("target")
            if world.open_requests() and targets:
                world.die(world.random.choice(targets))
                num_deaths += 1
        world.settle()
        assert world.failed == {}
    assert num_deaths > 30
