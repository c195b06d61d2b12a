"""The coordinator goes on whatever its members say, as long as the schema allows it."""

from __future__ import annotations

import contextlib
import os
import random

import pytest

from airdraft.mesh.codec import decode
from airdraft.mesh.messages import Hello, Pong
from airdraft.nodes.messages import StartedNotice
from airdraft.nodes.messages.access import ForbiddenError
from bench.hostile.frames import Generator
from tests.nodes.builders import make_profile, make_submit
from tests.nodes.coordinator.script import Mesh, guessing_mesh

ROLES = {b"t1": "target", b"t2": "target", b"d1": "draft", b"d2": "draft", b"c": "client"}
STEPS = int(os.environ.get("AIRDRAFT_HOSTILE_STEPS", "4000"))


@pytest.mark.slow
def test_no_message_of_a_member_ends_the_coordinator() -> None:
    generator, choice = Generator(5), random.Random(5)
    mesh, now, num_taken = Mesh(lookup=True), 0.0, 0
    for step in range(STEPS):
        now += choice.choice((0.0, 0.01, 0.2))
        peer = choice.choice(list(ROLES))
        if mesh.state.roster.roles().get(peer) is None:
            profile = None if peer == b"c" else make_profile(num_cells=choice.choice((300, 8192)))
            mesh.join(peer, ROLES[peer], profile, f"{peer.decode()}{step}")
        message = decode(generator.valid()).message
        if isinstance(message, Hello):
            continue
        if choice.random() < 0.1:
            message = make_submit(step, num_choices=choice.choice((1, 3)))
        with contextlib.suppress(ForbiddenError):
            mesh.hear(peer, message, now)
            num_taken += 1
        for other in ROLES:
            if choice.random() < 0.3:
                mesh.hear(other, Pong(0, step), now)
        mesh.due(now)
    assert num_taken > STEPS // 20
    # It still serves, at the latest when the members that do not answer are gone.
    mesh.join(b"t9", "target", make_profile(), "t9", now=now)
    mesh.join(b"c9", "client", now=now)
    # A prompt that members may have died of is refused for a while, so this is another one.
    sends = mesh.submit(1, now, b"c9", prompt_token_ids=(9, 8, 7))
    give_up_at = now + 60.0
    while not sends.said(StartedNotice, b"c9"):
        now += 0.2
        assert now < give_up_at
        for peer in (b"t9", b"c9"):
            mesh.hear(peer, Pong(0, round(5 * now)), now)
        sends = mesh.due(now)


def test_more_right_guesses_than_were_compared_do_not_make_a_chance_above_one() -> None:
    mesh = guessing_mesh()
    mesh.commit(1, 3, num_compared=1, num_right=2**31 - 1)
    (stream,) = mesh.status().streams
    assert 0.7 < stream.acceptance <= 1.0
    (node,) = mesh.state.roster.targets()
    assert node.scheduler.alphas["draft"].alpha <= 1.0
