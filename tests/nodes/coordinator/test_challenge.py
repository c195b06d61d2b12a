"""A target gets streams once it has answered its probe, and by the bits that it has shown."""

import logging
from dataclasses import replace

import pytest

from mesh.codec import encode_struct
from mesh.messages import PROTOCOL_VERSION, Bye, Hello, Ping, Pong, Welcome
from nodes.coordinator.state import CoordinatorState
from nodes.messages import (
    NodesReply,
    NodesRequest,
    ProbeReply,
    ProbeRequest,
    StartedNotice,
    StatusReply,
    StatusRequest,
)
from nodes.scheduler.planning import MODES
from nodes.telemetry.status import decode_status
from tests.nodes.builders import make_profile, make_submit
from tests.nodes.coordinator.script import CLIENT, OTHER, TARGET, Mesh, finish, opened, to

CLASS = "class"
RIGHT, WRONG = "ab" * 32, "cd" * 32


def probe_of(mesh, peer, **changes):
    """What a target is asked when it says Hello."""
    sends = mesh.greet(peer, "target", make_profile(numerics_class=CLASS, **changes))
    welcome, *others = to(peer, sends)
    assert isinstance(welcome, Welcome)
    (probe,) = [message for message in others if isinstance(message, ProbeRequest)]
    return probe


def classes_of(mesh):
    (reply,) = to(CLIENT, mesh.hear(CLIENT, StatusRequest(1)))
    assert isinstance(reply, StatusReply)
    return {node.name: node.numerics_class for node in decode_status(reply.status).nodes}


def test_a_target_gets_no_streams_before_it_has_answered():
    mesh = Mesh()
    mesh.join(CLIENT, "client")
    probe = probe_of(mesh, TARGET)
    assert opened(mesh.hear(CLIENT, make_submit(1))) == []
    assert opened(mesh.state.tick(1.0)) == []
    assert len(opened(mesh.hear(TARGET, ProbeReply(probe.seed, RIGHT)))) == 1


def test_targets_of_one_class_are_asked_the_same_and_others_are_not():
    mesh = Mesh()
    first, second = probe_of(mesh, TARGET), probe_of(mesh, OTHER)
    assert first == second
    assert probe_of(mesh, b"model", model_hash="another") != first
    sends = mesh.greet(b"class", "target", make_profile(numerics_class="another"))
    assert to(b"class", sends)[1] != first


def test_what_is_asked_is_not_known_before_the_coordinator_has_started():
    def seed(epoch):
        state = CoordinatorState(
            MODES["auto"],
            cluster="",
            epoch=epoch,
            heartbeat_interval_s=0.5,
            heartbeat_timeout_s=5.0,
        )
        hello = Hello("t", "target", 1, PROTOCOL_VERSION, encode_struct(make_profile()))
        sends = state.on_message(TARGET, "", 0, hello, 10, 0.0)
        return [s.message.seed for s in sends if isinstance(s.message, ProbeRequest)]

    assert len(seed(1)) == 1
    assert seed(1) == seed(1) != seed(2)


def test_equal_answers_are_one_class(caplog):
    mesh = Mesh()
    mesh.join(CLIENT, "client")
    for peer in (TARGET, OTHER):
        probe = probe_of(mesh, peer)
        mesh.hear(peer, ProbeReply(probe.seed, RIGHT))
    assert classes_of(mesh) == {"target": CLASS, "other": CLASS}
    assert not caplog.records


def test_who_answers_otherwise_is_of_another_class_is_named_and_shown(caplog):
    mesh = Mesh()
    mesh.join(CLIENT, "client")
    with caplog.at_level(logging.WARNING):
        for peer, digest in ((TARGET, RIGHT), (OTHER, WRONG)):
            mesh.hear(peer, ProbeReply(probe_of(mesh, peer).seed, digest))
    assert classes_of(mesh) == {"target": CLASS, "other": f"{CLASS}~cdcdcdcd"}
    (line,) = [record.getMessage() for record in caplog.records]
    assert "target other computes other bits than target" in line
    assert f"{CLASS}~cdcdcdcd" in line
    (reply,) = to(CLIENT, mesh.hear(CLIENT, NodesRequest(1)))
    assert isinstance(reply, NodesReply)
    assert {node.node: node.numerics_class for node in reply.nodes} == classes_of(mesh)


def test_streams_do_not_go_on_where_other_bits_are_computed():
    mesh = Mesh()
    mesh.join(CLIENT, "client")
    mesh.hear(TARGET, ProbeReply(probe_of(mesh, TARGET).seed, RIGHT))
    sends = mesh.hear(CLIENT, make_submit(1, max_tokens=9))
    (stream_id,) = opened(sends)
    (started,) = [m for m in to(CLIENT, sends) if isinstance(m, StartedNotice)]
    assert started.numerics_class == CLASS
    commit = finish(stream_id)
    going_on = replace(commit.entries[0], finish_reason="")
    mesh.hear(TARGET, replace(commit, entries=(going_on,)))
    mesh.hear(OTHER, ProbeReply(probe_of(mesh, OTHER).seed, WRONG))
    assert opened(mesh.state.peer_gone(TARGET, 1.0), OTHER) == []
    third = b"third"
    assert opened(mesh.hear(third, ProbeReply(probe_of(mesh, third).seed, RIGHT)), third) == [
        stream_id
    ]


def test_the_first_answer_is_kept_when_its_target_has_left():
    mesh = Mesh()
    mesh.join(CLIENT, "client")
    mesh.hear(TARGET, ProbeReply(probe_of(mesh, TARGET).seed, RIGHT))
    mesh.hear(TARGET, Bye("done"))
    mesh.hear(OTHER, ProbeReply(probe_of(mesh, OTHER).seed, WRONG))
    assert classes_of(mesh)["other"] == f"{CLASS}~cdcdcdcd"


def test_targets_that_promise_no_equal_bits_are_let_in_whatever_they_answer():
    mesh = Mesh()
    mesh.join(CLIENT, "client")
    for peer, digest in ((TARGET, RIGHT), (OTHER, WRONG)):
        mesh.hear(peer, ProbeReply(probe_of(mesh, peer, exact=False).seed, digest))
    assert classes_of(mesh) == {"target": CLASS, "other": CLASS}


@pytest.mark.parametrize("seed_off", [1, 0])
def test_an_answer_that_nobody_asked_for_changes_nothing(seed_off):
    """Another seed, and the same answer once more."""
    mesh = Mesh()
    mesh.join(CLIENT, "client")
    seed = probe_of(mesh, TARGET).seed
    if not seed_off:
        mesh.hear(TARGET, ProbeReply(seed, RIGHT))
    before = mesh.state.num_stale
    assert mesh.hear(TARGET, ProbeReply(seed ^ seed_off, WRONG)) == []
    assert mesh.state.num_stale == before + 1
    assert classes_of(mesh) == {"target": CLASS}


def heartbeats(mesh, until_s):
    """Ticks; the target answers every Ping, and nothing else."""
    found = []
    for second in range(1, until_s):
        sends = mesh.state.tick(float(second))
        found += sends
        for ping in to(TARGET, sends):
            if isinstance(ping, Ping):
                mesh.hear(TARGET, Pong(ping.seq, 0), float(second))
    return found


def test_a_target_is_asked_again_and_its_late_answer_counts():
    mesh = Mesh()
    probe = probe_of(mesh, TARGET)
    asked = [m for m in to(TARGET, heartbeats(mesh, 12)) if isinstance(m, ProbeRequest)]
    assert asked == [probe, probe]
    mesh.hear(TARGET, ProbeReply(probe.seed, RIGHT), 12.0)
    assert not any(isinstance(s.message, ProbeRequest) for s in heartbeats(mesh, 30))
    mesh.join(CLIENT, "client", now=30.0)
    assert len(opened(mesh.hear(CLIENT, make_submit(1), 30.0))) == 1


def test_a_target_that_never_answers_is_sent_away():
    mesh = Mesh()
    probe_of(mesh, TARGET)
    heartbeats(mesh, 60)
    assert mesh.state.role_of(TARGET) == "target"
    mesh.state.tick(60.5)
    assert mesh.state.role_of(TARGET) == ""
