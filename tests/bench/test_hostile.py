"""The short form of `python -m bench hostile` and `two-machines`: what must hold, holds."""

import os
import shutil
import sys
from functools import partial

import pytest

from airdraft.mesh.codec import decode
from bench.harness.airdraft import VARIABLE
from bench.harness.fleet import FleetError, Setup
from bench.hostile import port
from bench.hostile.frames import Generator, decode_hostile
from bench.hostile.two_machines import mesh_by_invitation
from tests.nodes.coordinator.examples import MESSAGES

HAS_NAMESPACES = os.geteuid() == 0 and shutil.which("ip") is not None


def test_hostile_frames_are_decode_errors_and_nothing_else() -> None:
    figures = decode_hostile(int(os.environ.get("AIRDRAFT_HOSTILE_FRAMES", "30000")), seed=1)
    assert 0 < figures.num_taken < figures.num_frames
    assert figures.num_traced > 100
    assert figures.peak_bytes < 1 << 20


def test_the_generator_makes_messages_of_every_type() -> None:
    generator = Generator(2)
    kinds = {type(decode(generator.valid()).message) for _ in range(4000)}
    assert kinds == {type(message) for message in MESSAGES}


async def test_messages_of_unknown_keys_are_never_delivered() -> None:
    assert (await port.unknown(10_000)).faults == []


async def test_a_client_is_served_beside_garbage() -> None:
    assert (await port.garbage(1_000)).faults == []


async def test_a_coordinator_that_ends_beside_garbage_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failing = {VARIABLE: "receive.NodesRequest:kill:3"}
    monkeypatch.setattr(port, "Setup", partial(Setup, environ=failing))
    with pytest.raises(FleetError, match=r"coordinator ended by itself \(SIGKILL\)"):
        await port.garbage(1_000)


@pytest.mark.skipif(not HAS_NAMESPACES, reason="network namespaces need root and `ip`")
def test_a_mesh_by_invitation_shows_a_listener_nothing() -> None:
    command = [sys.executable, "-m", "airdraft"]
    found = mesh_by_invitation(command, "toy:1", "toy:0.8")
    assert "guesses accepted" in found
    assert "hold none of" in found
