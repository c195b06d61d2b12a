"""Who becomes a member, who is not heard, and who is silent for too long."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.codec import encode
from mesh.messages import (
    NOT_ALLOWED,
    OTHER_PROTOCOL,
    PROTOCOL_VERSION,
    UNSUITABLE,
    Hello,
    Ping,
    Pong,
    Refuse,
    Welcome,
)
from nodes.coordinator.sends import Send
from nodes.messages import NodesReply, NodesRequest
from nodes.messages.access import ForbiddenError
from tests.nodes.builders import make_profile, make_submit
from tests.nodes.coordinator.script import (
    CLIENT,
    CLUSTER,
    EPOCH,
    OTHER,
    TARGET,
    Mesh,
    finish,
    make_mesh,
    to,
)


def test_nodes_and_clients_are_welcomed_again_if_they_say_hello_again() -> None:
    mesh = Mesh()
    for peer, role, profile in ((TARGET, "target", make_profile()), (CLIENT, "client", None)):
        welcome = Send(peer, Welcome(peer.decode(), CLUSTER, EPOCH, 0.5, 5.0, False))
        assert mesh.join(peer, role, profile) == [welcome]
        assert mesh.join(peer, role, profile) == [welcome]
    assert mesh.state.peers() == [TARGET, CLIENT]


def test_who_cannot_be_a_member_is_refused_in_a_line() -> None:
    mesh = Mesh()
    assert mesh.join(OTHER, "oracle") == [Send(OTHER, Refuse("unknown role oracle", NOT_ALLOWED))]
    malformed = mesh.hear(OTHER, Hello("x", "target", 1, PROTOCOL_VERSION, b"\xc1"))
    assert to(OTHER, malformed)[0].reason.startswith("malformed profile: ")
    bad_costs = make_profile()
    bad_costs = replace(bad_costs, decode=replace(bad_costs.decode, seconds=(0.0, 1.0)))
    assert (
        "seconds of a pass must be positive"
        in to(OTHER, mesh.join(OTHER, "draft", bad_costs))[0].reason
    )
    old = mesh.hear(OTHER, Hello("x", "client", 1, PROTOCOL_VERSION + 1, b""))
    ours, theirs = PROTOCOL_VERSION, PROTOCOL_VERSION + 1
    reason = f"protocol {theirs}, but this side speaks {ours}"
    assert to(OTHER, old) == [Refuse(reason, OTHER_PROTOCOL)]
    assert mesh.state.peers() == []


def test_a_draft_whose_vocabulary_differs_is_refused_with_both_names() -> None:
    mesh = Mesh()
    mesh.join(TARGET, "target", make_profile(model="big", vocab_hash="a"))
    assert mesh.join(OTHER, "draft", make_profile(model="small", vocab_hash="b")) == [
        Send(
            OTHER,
            Refuse(
                "vocabularies differ: draft model small cannot work with "
                "target model big: write the target's with `airdraft models vocabulary` and "
                "start the draft node with --vocabulary FILE",
                UNSUITABLE,
            ),
        )
    ]


def test_no_draft_keeps_a_target_out() -> None:
    mesh = Mesh()
    mesh.join(OTHER, "draft", make_profile(model="small", vocab_hash="b"))
    welcome, refusal = mesh.join(TARGET, "target", make_profile(model="big", vocab_hash="a"))
    assert (welcome.peer, type(welcome.message)) == (TARGET, Welcome)
    # The draft goes: it would wait for ever.
    assert (refusal.peer, type(refusal.message)) == (OTHER, Refuse)
    assert "draft model small cannot work with target model big" in refusal.message.reason
    assert mesh.state.peers() == [TARGET]


def test_a_list_of_many_nodes_with_long_names_is_still_a_message() -> None:
    mesh = make_mesh()
    for number in range(100):
        peer = b"%d" % number
        mesh.join(
            peer, "draft", make_profile(model="\U0001f600" * 256), "\U0001f600" * 60 + f"{number}"
        )
    ((_, reply),) = [(s.peer, s.message) for s in mesh.hear(CLIENT, NodesRequest(1))]
    assert len(reply.nodes) == 64
    assert encode(reply, cluster="c" * 64, epoch=2**62)


def test_messages_of_strangers_and_of_another_cluster_or_epoch_are_counted() -> None:
    mesh = make_mesh()
    assert mesh.hear(OTHER, make_submit()) == []
    assert mesh.state.on_message(CLIENT, "other", EPOCH, make_submit(), 9, 0.0) == []
    assert mesh.state.on_message(CLIENT, CLUSTER, EPOCH - 1, make_submit(), 9, 0.0) == []
    assert mesh.state.num_stale == 3
    # Neither side may say what only the other one says.
    for peer, message in ((CLIENT, finish(1)), (TARGET, make_submit())):
        with pytest.raises(ForbiddenError, match="may not send"):
            mesh.hear(peer, message)


def test_heartbeats_go_both_ways_and_the_silent_leave() -> None:
    mesh = make_mesh()
    sends = mesh.state.tick(0.0)
    assert {send.peer for send in sends} == {TARGET, CLIENT}
    assert all(isinstance(send.message, Ping) for send in sends)
    assert mesh.hear(CLIENT, Ping(3, 0)) == [Send(CLIENT, Pong(3, 0))]
    for now in (2.0, 4.0, 6.0):
        assert mesh.hear(TARGET, Pong(0, 1), now) == []
        mesh.state.tick(now)
    assert mesh.state.peers() == [TARGET]


def test_members_that_may_be_gone_are_sent_a_ping_and_others_are_not() -> None:
    mesh = make_mesh()
    sends = mesh.state.probe([TARGET, OTHER, CLIENT], 0.1)
    assert [send.peer for send in sends] == [TARGET, CLIENT]
    assert all(isinstance(send.message, Ping) for send in sends)
    assert len(mesh.state.peers()) == 2, "a Ping is no verdict"


def test_while_the_coordinator_did_not_run_nobody_was_silent() -> None:
    mesh = make_mesh()
    mesh.state.tick(0.0)
    mesh.state.paused(59.9, 60.0)
    mesh.state.tick(60.0)
    assert len(mesh.state.peers()) == 2
    assert mesh.state.silent(66.0) == [TARGET, CLIENT]
    mesh.state.heard_of(CLIENT, 65.0)
    mesh.state.tick(66.0)
    assert mesh.state.peers() == [CLIENT]


def test_the_nodes_are_told_to_clients_who_ask() -> None:
    mesh = make_mesh(with_draft=True)
    mesh.hear(CLIENT, make_submit())
    (reply,) = to(CLIENT, mesh.hear(CLIENT, NodesRequest(4)))
    assert isinstance(reply, NodesReply)
    assert [(n.node, n.role, n.model, n.num_streams) for n in reply.nodes] == [
        ("target", "target", "toy-1", 1),
        ("draft", "draft", "toy-0.8", 0),
    ]
