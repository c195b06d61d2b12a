"""Messages that come several times, in another order, or again in a later membership.

ZeroMQ does none of this within a connection. Whatever does, no text may become wrong by it.
AIRDRAFT_DISORDER_SEEDS=200 pytest tests/nodes/machine runs the long form.
"""

from __future__ import annotations

import os
import random

import pytest

from airdraft.mesh.codec import decode
from airdraft.mesh.messages import Bye, Hello, Refuse, Welcome
from airdraft.mesh.transport import Frames
from tests.nodes.builders import make_submit
from tests.nodes.machine.client import ClientProcess
from tests.nodes.machine.network import Connection, Disorder
from tests.nodes.machine.process import NodeProcess, Process
from tests.nodes.machine.setup import Setup, draft
from tests.nodes.machine.world import World

NUM_SEEDS = int(os.environ.get("AIRDRAFT_DISORDER_SEEDS", "12"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 + 10 * NUM_SEEDS)]
_PROMPTS = ((5, 6, 7), tuple(range(1, 50)), tuple(range(1, 70)))


def _world(seed: int, disorder: Disorder | None = None) -> tuple[World, ClientProcess]:
    setup = Setup(
        target_cells=((200, 200), (130,), (600, 150, 150))[seed % 3],
        drafts=((draft(1.0),), (draft(0.8), draft(0.8)))[seed % 2],
        draft_bps=(0.0, 20e3)[seed % 4 // 2],
        has_lookup=seed % 8 > 3,
        has_wild_policy=seed % 5 == 0,
        seed=seed,
    )
    world = World(setup, disorder)
    client = world.join()
    return world, client


def _ask(world: World, client: ClientProcess) -> None:
    """Some requests more."""
    for number in range(4):
        submit = make_submit(
            len(client.asked) + 1,
            prompt="some text" if number == 3 else "",
            prompt_token_ids=() if number == 3 else _PROMPTS[number],
            max_tokens=(8, 30)[number % 2],
            temperature=float(number % 2),
            num_choices=1 + number % 2,
        )
        world.submit(client, submit)


def _give_up(world: World, client: ClientProcess) -> int:
    """Cancel all that was asked for, which leaves nothing. Returns how many texts were whole."""
    is_whole = [asked.is_whole for asked in client.asked.values()]
    # What was cancelled may have been asked for again, by a message that comes once more.
    for _ in range(3):
        for asked in client.asked.values():
            client.cancel(asked)
        world.pass_by(2.0)
    world.check_empty()
    return sum(is_whole)


def test_messages_that_are_repeated_change_nothing() -> None:
    for seed in range(NUM_SEEDS):
        world, client = _world(seed, Disorder(random.Random(seed), most_copies=3, window=1))
        for _ in range(2):
            _ask(world, client)
            world.pass_by(0.3)
        world.settle()
        assert all(asked.is_whole for asked in client.asked.values())


def test_messages_that_are_repeated_and_out_of_order_make_no_text_wrong() -> None:
    """Requests may fail of it, or last; a client that gives up frees all it held."""
    num_whole = 0
    for seed in range(NUM_SEEDS):
        disorder = Disorder(random.Random(seed), 3, 8, of_nodes_only=bool(seed % 2))
        world, client = _world(seed, disorder)
        world.is_lenient = True
        for _ in range(3):
            _ask(world, client)
            world.pass_by(3.0)
            world.check()
        num_whole += _give_up(world, client)
    assert num_whole > NUM_SEEDS


def _heard(world: World) -> list[tuple[Process, str, Frames]]:
    """Whatever arrives from now on: by whose connection, and on which way. What is said of a
    membership itself is left out, because it is of no epoch, or ends it."""
    heard: list[tuple[Process, str, Frames]] = []

    def took(connection: Connection, way: str, frames: Frames) -> None:
        if not isinstance(decode(frames).message, Hello | Welcome | Refuse | Bye):
            owner = next(p for p in world.processes if p.connection is connection)
            heard.append((owner, way, frames))

    world.network.took = took
    return heard


def test_what_was_said_in_an_earlier_membership_makes_no_text_wrong() -> None:
    """All of it comes again, on all ways, while streams are elsewhere or have begun anew."""
    num_whole = 0
    for seed in range(NUM_SEEDS):
        world, client = _world(seed)
        heard = _heard(world)
        _ask(world, client)
        world.go_on(40 * (1 + seed % 5))
        for target in world.nodes("target")[: 1 + seed % 2]:
            world.break_connection(target, notice_s=0.0, away_s=0.1)
        world.go_on(300)
        world.is_lenient = True
        for process, way, frames in list(heard):
            if way == "up" or isinstance(process, NodeProcess):
                process.connection.send(way, frames, world.now)
        _ask(world, client)
        world.pass_by(6.0)
        world.check()
        num_whole += _give_up(world, client)
    assert num_whole > NUM_SEEDS
