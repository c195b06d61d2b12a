"""A target gets streams once it has answered its probe, and by the bits that it has shown."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from airdraft.mesh.messages import Ping, Pong
from airdraft.nodes.messages import ProbeReply, ProbeRequest, StartedNotice
from tests.nodes.builders import make_profile
from tests.nodes.coordinator.script import CLIENT, EPOCH, OTHER, TARGET, Mesh, Sends

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
    (probe,) = mesh.greet(peer, "target", profile).said(ProbeRequest, peer)
    return probe


def answer(mesh: Mesh, peer: bytes, digest: str = RIGHT, **changes: Any) -> Sends:
    return mesh.hear(peer, ProbeReply(probe_of(mesh, peer, **changes).seed, digest))


def classes_of(mesh: Mesh) -> dict[str, str]:
    """As the status has them; and the list of nodes, of those that are there."""
    found = {node.name: node.numerics_class for node in mesh.status().nodes}
    assert {node.node: node.numerics_class for node in mesh.nodes()}.items() <= found.items()
    return found


def test_targets_of_one_class_are_asked_the_same_and_others_are_not(mesh: Mesh) -> None:
    first = probe_of(mesh, TARGET)
    assert probe_of(mesh, OTHER) == first
    assert probe_of(mesh, b"model", model_hash="another") != first
    assert probe_of(mesh, b"class", numerics_class="another") != first
    # The epoch, which is drawn when a coordinator starts, decides it: nobody knows it before.
    assert probe_of(Mesh(), TARGET) == first
    assert probe_of(Mesh(epoch=EPOCH + 1), TARGET) != first


@pytest.mark.parametrize("has_left", [False, True])
@pytest.mark.parametrize(
    ("digest", "exact", "is_apart"),
    [(RIGHT, True, False), (WRONG, True, True), (WRONG, False, False)],
    ids=["equal", "other bits", "promises nothing"],
)
def test_a_target_whose_answer_differs_from_the_first_gets_a_class_of_its_own_and_is_named(
    mesh: Mesh,
    caplog: pytest.LogCaptureFixture,
    digest: str,
    exact: bool,
    is_apart: bool,
    has_left: bool,
) -> None:
    answer(mesh, TARGET, exact=exact)
    if has_left:
        mesh.bye(TARGET)
    with caplog.at_level(logging.WARNING):
        answer(mesh, OTHER, digest, exact=exact)
    its_class = f"{CLASS}~cdcdcdcd" if is_apart else CLASS
    assert classes_of(mesh) == {"target": CLASS, "other": its_class}
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == is_apart
    assert all("target other computes other bits than target" in line for line in lines)
    assert all(its_class in line for line in lines)


def test_streams_do_not_go_on_where_other_bits_are_computed(mesh: Mesh) -> None:
    answer(mesh, TARGET)
    sends = mesh.submit(max_tokens=9)
    assert [m.numerics_class for m in sends.said(StartedNotice)] == [CLASS]
    mesh.commit()
    answer(mesh, OTHER, WRONG)
    assert mesh.gone(TARGET, 1.0).opened(OTHER) == []
    assert answer(mesh, b"third").opened(b"third") == sends.opened()


@pytest.mark.parametrize("seed_off", [1, 0], ids=["another seed", "the same answer again"])
def test_an_answer_that_nobody_asked_for_changes_nothing(mesh: Mesh, seed_off: int) -> None:
    seed = probe_of(mesh, TARGET).seed
    if not seed_off:
        mesh.hear(TARGET, ProbeReply(seed, RIGHT))
    assert mesh.hear(TARGET, ProbeReply(seed ^ seed_off, WRONG)) == []
    assert mesh.state.reporting.num_stale == 1
    assert classes_of(mesh) == {"target": CLASS}


def heartbeats(mesh: Mesh, until_s: int) -> Sends:
    """Ticks, in which everybody answers every Ping, and does nothing else."""
    found = Sends()
    for second in range(1, until_s):
        found += mesh.due(float(second))
        for send in [send for send in found if isinstance(send.message, Ping)]:
            mesh.hear(send.peer, Pong(send.message.seq, 0), float(second))
    return found


def test_a_target_gets_no_streams_before_it_has_answered_and_is_asked_again(mesh: Mesh) -> None:
    # This one has waited for any target.
    mesh.submit(2, resume_from=(0,))
    sends = mesh.greet(TARGET, "target", make_profile(numerics_class=CLASS))
    (probe,) = sends.said(ProbeRequest)
    assert sends.opened() == mesh.submit().opened() == []
    asked = heartbeats(mesh, 12)
    assert (asked.said(ProbeRequest), asked.opened()) == ([probe, probe], [])
    # Its late answer counts.
    assert len(mesh.hear(TARGET, ProbeReply(probe.seed, RIGHT), 12.0).opened()) == 2
    assert heartbeats(mesh, 30).said(ProbeRequest) == []


def test_a_target_that_never_answers_is_sent_away(mesh: Mesh) -> None:
    probe_of(mesh, TARGET)
    heartbeats(mesh, 60)
    assert mesh.state.roster.role_of(TARGET) == "target"
    mesh.due(60.5)
    assert mesh.state.roster.role_of(TARGET) == ""
