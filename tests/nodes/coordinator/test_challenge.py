"""A target gets streams once it has answered its probe, and by the bits that it has shown."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from mesh.messages import Ping, Pong
from nodes.coordinator.sends import Send
from nodes.messages import OpenStreamRequest, ProbeReply, ProbeRequest, StartedNotice
from tests.nodes.builders import make_profile
from tests.nodes.coordinator.script import CLIENT, OTHER, TARGET, Mesh, opened, said

CLASS = "class"
RIGHT, WRONG = "ab" * 32, "cd" * 32


@pytest.fixture
def mesh() -> Mesh:
    mesh = Mesh()
    mesh.join(CLIENT, "client")
    return mesh


def probe_of(mesh: Mesh, peer: bytes, **changes: Any) -> ProbeRequest:
    """What a target is asked when it says Hello."""
    profile = make_profile(**{"numerics_class": CLASS, **changes})
    (probe,) = said(mesh.greet(peer, "target", profile), ProbeRequest, peer)
    return probe


def answer(mesh: Mesh, peer: bytes, digest: str = RIGHT, **changes: Any) -> list[Send]:
    return mesh.hear(peer, ProbeReply(probe_of(mesh, peer, **changes).seed, digest))


def classes_of(mesh: Mesh) -> dict[str, str]:
    """As the status has them; and the list of nodes, of those that are there."""
    found = {node.name: node.numerics_class for node in mesh.status().nodes}
    assert {node.node: node.numerics_class for node in mesh.nodes()}.items() <= found.items()
    return found


def test_a_target_gets_no_streams_before_it_has_answered(mesh: Mesh) -> None:
    probe = probe_of(mesh, TARGET)
    assert opened(mesh.submit()) == []
    assert opened(mesh.tick(1.0)) == []
    assert len(opened(mesh.hear(TARGET, ProbeReply(probe.seed, RIGHT)))) == 1


def test_targets_of_one_class_are_asked_the_same_and_others_are_not(mesh: Mesh) -> None:
    first = probe_of(mesh, TARGET)
    assert probe_of(mesh, OTHER) == first
    assert probe_of(mesh, b"model", model_hash="another") != first
    assert probe_of(mesh, b"class", numerics_class="another") != first


def test_equal_answers_are_one_class(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    answer(mesh, TARGET)
    answer(mesh, OTHER)
    assert classes_of(mesh) == {"target": CLASS, "other": CLASS}
    assert not caplog.records


def test_who_answers_otherwise_is_of_another_class_is_named_and_shown(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        answer(mesh, TARGET)
        answer(mesh, OTHER, WRONG)
    assert classes_of(mesh) == {"target": CLASS, "other": f"{CLASS}~cdcdcdcd"}
    (line,) = [record.getMessage() for record in caplog.records]
    assert "target other computes other bits than target" in line
    assert f"{CLASS}~cdcdcdcd" in line


def test_streams_do_not_go_on_where_other_bits_are_computed(mesh: Mesh) -> None:
    answer(mesh, TARGET)
    sends = mesh.submit(max_tokens=9)
    assert [m.numerics_class for m in said(sends, StartedNotice)] == [CLASS]
    mesh.commit()
    answer(mesh, OTHER, WRONG)
    assert opened(mesh.gone(TARGET, 1.0), OTHER) == []
    assert opened(answer(mesh, b"third"), b"third") == opened(sends)


def test_the_first_answer_is_kept_when_its_target_has_left(mesh: Mesh) -> None:
    answer(mesh, TARGET)
    mesh.bye(TARGET)
    answer(mesh, OTHER, WRONG)
    assert classes_of(mesh)["other"] == f"{CLASS}~cdcdcdcd"


def test_targets_that_promise_no_equal_bits_are_let_in_whatever_they_answer(mesh: Mesh) -> None:
    for peer, digest in ((TARGET, RIGHT), (OTHER, WRONG)):
        answer(mesh, peer, digest, exact=False)
    assert classes_of(mesh) == {"target": CLASS, "other": CLASS}


@pytest.mark.parametrize("seed_off", [1, 0], ids=["another seed", "the same answer again"])
def test_an_answer_that_nobody_asked_for_changes_nothing(mesh: Mesh, seed_off: int) -> None:
    seed = probe_of(mesh, TARGET).seed
    if not seed_off:
        mesh.hear(TARGET, ProbeReply(seed, RIGHT))
    assert mesh.hear(TARGET, ProbeReply(seed ^ seed_off, WRONG)) == []
    assert mesh.state.reporting.num_stale == 1
    assert classes_of(mesh) == {"target": CLASS}


def heartbeats(mesh: Mesh, until_s: int) -> list[Send]:
    """Ticks, in which everybody answers every Ping, and does nothing else."""
    found = []
    for second in range(1, until_s):
        found += mesh.state.tick(float(second))
        for send in [send for send in found if isinstance(send.message, Ping)]:
            mesh.hear(send.peer, Pong(send.message.seq, 0), float(second))
    return found


def test_a_target_is_asked_again_and_its_late_answer_counts(mesh: Mesh) -> None:
    probe = probe_of(mesh, TARGET)
    assert said(heartbeats(mesh, 12), ProbeRequest) == [probe, probe]
    mesh.hear(TARGET, ProbeReply(probe.seed, RIGHT), 12.0)
    assert said(heartbeats(mesh, 30), ProbeRequest) == []
    assert len(said(mesh.submit(now=30.0), OpenStreamRequest)) == 1


def test_a_target_that_never_answers_is_sent_away(mesh: Mesh) -> None:
    probe_of(mesh, TARGET)
    heartbeats(mesh, 60)
    assert mesh.state.roster.role_of(TARGET) == "target"
    mesh.state.tick(60.5)
    assert mesh.state.roster.role_of(TARGET) == ""


def test_what_is_asked_is_not_known_before_the_coordinator_has_started() -> None:
    """The epoch, which is drawn then, decides it."""
    meshes = [Mesh(epoch=epoch) for epoch in (1, 1, 2)]
    first, same, other = [probe_of(mesh, TARGET).seed for mesh in meshes]
    assert first == same != other
