"""When all requests are over, no state refers to any of them: every run of the machine looks."""

from __future__ import annotations

from tests.nodes.builders import make_submit
from tests.nodes.machine.checks import left_of_requests
from tests.nodes.machine.setup import Setup, draft
from tests.nodes.machine.world import World


def test_a_request_is_found_until_it_is_over() -> None:
    world = World(Setup(drafts=(draft(0.9),)))
    client = world.join()
    engines = [node.node.engine for node in world.nodes()]
    world.submit(client, make_submit(max_tokens=100, ignore_eog=True))
    world.go_on(100)
    found = left_of_requests(world.coordinator.state, *engines)
    assert {
        "airdraft.nodes.messages.nodes.OpenStreamRequest",
        "airdraft.nodes.target.stream.TargetStream",
    } <= found
    assert left_of_requests([(lambda: client.asked, lambda: world.coordinator)]) == found
    world.settle()
