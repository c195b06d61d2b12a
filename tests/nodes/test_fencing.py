"""Targets that were stopped, and go on when their streams are elsewhere: it changes nothing."""

from __future__ import annotations

import pytest

from tests.nodes.builders import make_submit
from tests.nodes.machine.setup import Setup, draft
from tests.nodes.machine.world import TIMEOUT_S, World


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
    num_stale = world.coordinator.state.num_stale
    zombie.is_stopped = False
    for _ in range(10):
        zombie.step()
    world.settle()
    assert world.coordinator.state.num_stale >= num_stale + 10
    assert all(asked.is_whole for asked in client.asked.values())
