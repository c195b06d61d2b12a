"""Who becomes a member, who is not heard, who counts as gone, and what all members are told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airdraft.mesh.codec import encode, encode_struct
from airdraft.mesh.messages import (
    DISMISSED,
    NOT_ALLOWED,
    OTHER_PROTOCOL,
    PROTOCOL_VERSION,
    Bye,
    Hello,
    Ping,
    Pong,
    Refuse,
    Welcome,
)
from airdraft.nodes.coordinator.members.record import PROGRESS_TIMEOUT_S
from airdraft.nodes.coordinator.requests.classes import STRANDED_LIMIT_S
from airdraft.nodes.coordinator.sends import Send
from airdraft.nodes.messages import (
    CloseStreamNotice,
    EngineProfile,
    LinkFields,
    NodeCommandReply,
    NodesReply,
    OpenStreamRequest,
    ReadNotice,
    RequestFailedNotice,
    TokenizeRequest,
)
from tests.nodes.builders import PROMPT, make_profile, make_submit
from tests.nodes.coordinator.script import (
    ADMIN,
    CLIENT,
    CLUSTER,
    DRAFT,
    EPOCH,
    OTHER,
    TARGET,
    TEXT_PROMPT,
    Mesh,
    Sends,
    make_mesh,
)


def test_nodes_and_clients_are_welcomed_again_if_they_say_hello_again() -> None:
    mesh = Mesh()
    for peer, role, profile in ((TARGET, "target", make_profile()), (CLIENT, "client", None)):
        welcome = Send(peer, Welcome(peer.decode(), CLUSTER, EPOCH, 0.5, 5.0, False))
        assert mesh.join(peer, role, profile) == mesh.join(peer, role, profile) == [welcome]
    assert mesh.state.roster.peers() == [TARGET, CLIENT]


def test_a_peer_that_cannot_be_a_member_is_refused_in_one_line() -> None:
    mesh, made, theirs = Mesh(), make_profile(), PROTOCOL_VERSION + 1
    no_costs = replace(made, decode=replace(made.decode, seconds=(1.0, 1e6)))
    no_rate = replace(made, link=LinkFields("", 1e-300, 0.0))
    malformed = "malformed profile: "
    other_version = f"protocol {theirs}, but this side speaks {PROTOCOL_VERSION}"
    for role, profile, version, reason, code in (
        ("oracle", b"", PROTOCOL_VERSION, "unknown role oracle", NOT_ALLOWED),
        ("target", b"\xc1", PROTOCOL_VERSION, malformed, OTHER_PROTOCOL),
        ("draft", no_costs, PROTOCOL_VERSION, f"{malformed}the seconds of a pass", OTHER_PROTOCOL),
        ("draft", no_rate, PROTOCOL_VERSION, f"{malformed}the rate of a link", OTHER_PROTOCOL),
        ("client", made, PROTOCOL_VERSION, "a client has no profile", ""),
        ("client", b"", theirs, other_version, OTHER_PROTOCOL),
    ):
        data = profile if isinstance(profile, bytes) else encode_struct(profile)
        (send,) = mesh.hear(OTHER, Hello("x", role, 1, version, data))
        assert (send.message.reason[: len(reason)], send.message.code) == (reason, code)
    assert mesh.state.roster.peers() == []


def test_a_draft_whose_vocabulary_differs_is_refused_with_both_names() -> None:
    mesh = Mesh()
    mesh.join(TARGET, "target", make_profile(model="big", vocab_hash="a"))
    (refusal,) = mesh.join(OTHER, "draft", make_profile(model="small", vocab_hash="b"))
    reason = (
        "vocabularies differ: draft model small cannot work with target model big: write the "
        "target's with `airdraft models vocabulary` and start the draft node with --vocabulary FILE"
    )
    # A code would end it for good, and its own target may only join later.
    assert refusal == Send(OTHER, Refuse(reason))
    mesh.join(b"late", "target", make_profile(model="bigger", vocab_hash="b"))
    mesh.join(OTHER, "draft", make_profile(model="small", vocab_hash="b"))
    assert mesh.state.roster.role_of(OTHER) == "draft"


def test_no_draft_keeps_a_target_out() -> None:
    mesh = Mesh()
    mesh.join(OTHER, "draft", make_profile(model="small", vocab_hash="b"))
    welcome, refusal = mesh.join(TARGET, "target", make_profile(model="big", vocab_hash="a"))
    assert (welcome.peer, type(welcome.message)) == (TARGET, Welcome)
    # The draft goes: it would wait for ever.
    assert (refusal.peer, type(refusal.message)) == (OTHER, Refuse)
    assert "draft model small cannot work with target model big" in refusal.message.reason
    assert mesh.state.roster.peers() == [TARGET]


def test_messages_of_strangers_and_of_another_cluster_or_epoch_are_counted(mesh: Mesh) -> None:
    assert mesh.submit(peer=OTHER) == []
    assert mesh.state.on_message(CLIENT, "other", EPOCH, make_submit(), 9, 0.0) == []
    assert mesh.state.on_message(CLIENT, CLUSTER, EPOCH - 1, make_submit(), 9, 0.0) == []
    assert mesh.state.reporting.num_stale == 3


# -- silence ---------------------------------------------------------------------------------------


def test_heartbeats_go_both_ways_and_the_silent_leave(mesh: Mesh) -> None:
    sends = mesh.due(0.0)
    assert [(send.peer, type(send.message)) for send in sends] == [(TARGET, Ping), (CLIENT, Ping)]
    assert mesh.hear(CLIENT, Ping(3, 0)) == [Send(CLIENT, Pong(3, 0))]
    for now in (2.0, 4.0, 6.0):
        mesh.tick(now, CLIENT)
    assert mesh.state.roster.peers() == [TARGET]


def gone_after_s(profile: EngineProfile, *, is_busy: bool = True) -> int | None:
    """Seconds until a target is gone that answers, but does nothing; None if that is never."""
    mesh = make_mesh()
    mesh.join(TARGET, "target", profile, incarnation=7)
    if is_busy:
        mesh.submit()
    for second in range(1, 200):
        for peer in (TARGET, CLIENT):
            mesh.hear(peer, Pong(0, 7), float(second))
        mesh.due(float(second))
        if mesh.state.roster.role_of(TARGET) == "":
            (node,) = mesh.status(float(second)).nodes
            assert node.reason == f"no progress for {second - 1:.1f} s"
            return second
    return None


def test_a_target_that_is_asked_for_something_and_does_nothing_is_gone() -> None:
    profile = make_profile()
    second = gone_after_s(profile)
    assert second is not None
    assert PROGRESS_TIMEOUT_S < second <= PROGRESS_TIMEOUT_S + 3
    assert gone_after_s(profile, is_busy=False) is None
    # A target with long passes is given more time.
    seconds = (*profile.prefill.seconds[:-1], 20.0)
    slow = replace(profile, prefill=replace(profile.prefill, seconds=seconds))
    assert (gone_after_s(slow) or 0) > 8 * 20


# -- what members are told -------------------------------------------------------------------------


def test_a_list_of_many_nodes_with_long_names_is_a_message_and_has_those_that_drain() -> None:
    mesh = Mesh()
    face = "\N{GRINNING FACE}"
    profile = make_profile(model=face * 256, model_hash=face * 256, numerics_class=face * 256)
    for number in range(70):
        mesh.join(b"%d" % number, "target", profile, f"{number:02}" + face * 60)
    mesh.join(CLIENT, "client")
    mesh.submit(num_choices=100)
    # `airdraft nodes drain` waits until the node is gone from this list.
    last = f"69{face * 60}"
    mesh.command("drain", last)
    nodes = mesh.nodes()
    assert len(nodes) == 64
    assert {node.role for node in nodes} == {"target"}
    assert sum(node.num_streams for node in nodes) > 0
    assert [node.node for node in nodes if node.is_draining] == [last]
    assert encode(NodesReply(2**62, nodes), cluster="c" * 64, epoch=2**62)


def test_nodes_of_one_key_do_not_hide_those_of_another() -> None:
    mesh = Mesh()
    for number in range(100):
        mesh.join(b"m%d" % number, "target", make_profile(), f"mallory/{number}")
        mesh.join(b"d%d" % number, "draft", make_profile(), f"alice/draft-{number}")
    for number in range(3):
        mesh.join(b"a%d" % number, "target", make_profile(), f"alice/{number}")
    mesh.join(CLIENT, "client")
    mesh.join(ADMIN, "admin")
    shown = [node.node for node in mesh.nodes()]
    assert len(shown) == 64
    assert {"alice/0", "alice/1", "alice/2"} < set(shown)
    assert sum(name.startswith("mallory/") for name in shown) == 61
    assert [node.name for node in mesh.status().nodes] == shown


# -- nodes that an operator drains or drops --------------------------------------------------------


def begun_mesh(**changes: Any) -> Mesh:
    """With one stream that has one token."""
    mesh = make_mesh(**changes)
    mesh.begin()
    return mesh


def reply(sends: Sends) -> NodeCommandReply:
    (found,) = sends.said(NodeCommandReply, ADMIN)
    return found


def has_left(mesh: Mesh, now: float) -> bool:
    """Whether the target is sent a Bye by now."""
    byes = mesh.tick(now).said(Bye, TARGET)
    assert all(bye.reason.startswith("drained by an operator") for bye in byes)
    return bool(byes) and TARGET not in mesh.state.roster.peers()


@pytest.mark.parametrize("joins_first", [True, False])
def test_streams_of_a_drained_target_go_on_elsewhere_and_it_leaves(joins_first: bool) -> None:
    mesh = begun_mesh()
    if joins_first:
        mesh.join(OTHER, "target", make_profile())
    sends = mesh.command("drain", "target")
    assert reply(sends) == NodeCommandReply(4, "", 1)
    if not joins_first:
        assert mesh.join(OTHER, "target", make_profile()).opened(OTHER) == []
        sends = mesh.tick(0.1)
    assert sends.to(TARGET)[0] == CloseStreamNotice(1, 1)
    (there,) = sends.openings(OTHER)
    assert (there.generation, there.token_ids) == (2, (*PROMPT, 9))
    assert sends.to(CLIENT) == []
    assert not joins_first or has_left(mesh, 0.1)
    assert TARGET not in mesh.state.roster.peers()


def test_a_request_that_can_go_nowhere_ends_on_the_drained_target() -> None:
    """It has room for one choice at a time, and the other target is of another class."""
    mesh = make_mesh(max_streams=1)
    mesh.submit(num_choices=2)
    mesh.join(OTHER, "target", make_profile(numerics_class="another"))
    mesh.command("drain", "target")
    # What is new goes to the other one.
    assert mesh.submit(2).opened(OTHER) == [3]
    sends = mesh.finish(1)
    assert (len(sends.to(CLIENT)), sends.opened()) == (2, [2])
    assert not has_left(mesh, 0.1)
    mesh.finish(2)
    assert has_left(mesh, 0.2)


def test_without_another_target_new_requests_are_refused_and_those_in_line_given_up() -> None:
    mesh = begun_mesh(max_streams=1)
    mesh.submit(2)
    mesh.command("drain", "target")
    assert mesh.submit(3).failure() == (
        "unavailable",
        "all target nodes are draining: start another one, or undrain one",
    )
    (failed,) = mesh.tick(STRANDED_LIMIT_S).said(RequestFailedNotice)
    reason = "all targets that could serve this request are draining; no other"
    assert failed.reason.startswith(reason)
    # The one that is under way goes on.
    assert len(mesh.finish(1, 4).to(CLIENT)) == 2


def test_a_request_that_is_given_up_says_what_is_so_by_then() -> None:
    """Its target was drained and taken back, and left later."""
    mesh = begun_mesh(max_streams=1)
    mesh.submit(2)
    mesh.command("drain", "target")
    mesh.command("undrain", "target")
    mesh.gone(TARGET)
    waiting = mesh.tick(STRANDED_LIMIT_S).said(RequestFailedNotice)[-1]
    assert waiting.request_id == 2
    assert waiting.reason.startswith("all targets that could serve this request left; no other")


def test_texts_that_a_drained_target_only_reads_end_there() -> None:
    mesh = make_mesh()
    mesh.submit(1, wants="tokens", **TEXT_PROMPT)
    mesh.submit(2, **TEXT_PROMPT)
    mesh.command("drain", "target")
    assert not has_left(mesh, 0.1)
    (notice,) = mesh.tokenized(1, 4, 5).said(ReadNotice, CLIENT)
    assert notice.request_id == 1
    # The other one needs a target that takes new streams.
    assert has_left(mesh, 0.2)


def test_a_target_that_is_taken_back_serves_again() -> None:
    mesh = begun_mesh(max_streams=1)
    mesh.submit(2)
    mesh.command("drain", "target")
    assert reply(mesh.command("undrain", "target")).error == ""
    assert mesh.finish(1, 4).opened() == [2]
    assert "is not being drained" in reply(mesh.command("undrain", "target")).error


def test_texts_wait_for_a_target_that_is_taken_back() -> None:
    mesh = make_mesh()
    mesh.join(OTHER, "target", make_profile())
    mesh.submit(1)
    mesh.command("drain", "other")
    mesh.submit(2, **TEXT_PROMPT)
    mesh.command("drain", "target")
    mesh.gone(TARGET)
    (text,) = mesh.command("undrain", "other").said(TokenizeRequest, OTHER)
    assert mesh.tokenized(text.request_id, 4, 5, peer=OTHER).opened(OTHER) == [2]


def test_a_drained_draft_node_leaves_at_once_and_its_streams_find_another() -> None:
    mesh = make_mesh(with_draft=True)
    mesh.join(b"d2", "draft", make_profile(0.8))
    (holder,) = {name.encode() for name in mesh.submit().where()} - {TARGET}
    (other,) = {DRAFT, b"d2"} - {holder}
    sends = mesh.command("drain", holder.decode())
    assert isinstance(sends.to(holder)[0], Bye)
    assert [type(m) for m in sends.to(other)] == [OpenStreamRequest]
    assert holder not in mesh.state.roster.peers()


def test_a_dropped_target_is_out_at_once_and_its_process_stays_out() -> None:
    mesh = begun_mesh()
    mesh.join(OTHER, "target", make_profile())
    sends = mesh.command("drop", "target")
    assert isinstance(sends.to(TARGET)[0], Bye)
    assert [m.token_ids for m in sends.openings(OTHER)] == [(*PROMPT, 9)]
    # The process comes back over a new connection, then another process under the name.
    again = {"profile": make_profile(), "name": "target"}
    (refusal,) = mesh.greet(b"again", "target", incarnation=hash(TARGET) % 2**60, **again)
    reason = "dropped by an operator: restart the node to bring it back"
    assert refusal.message == Refuse(reason, DISMISSED)
    assert mesh.greet(b"new", "target", incarnation=77, **again).said(Welcome)


@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_drained_target_whose_connection_breaks_has_left(is_noticed: bool) -> None:
    """It may connect again before the coordinator has noticed anything."""
    mesh = begun_mesh()
    mesh.join(OTHER, "target", make_profile(numerics_class="another"))
    mesh.command("drain", "target")
    if is_noticed:
        mesh.gone(TARGET)
    process = {"name": "target", "incarnation": hash(TARGET) % 2**60}
    sends = mesh.greet(b"again", "target", make_profile(), **process)
    (refusal,) = sends.said(Refuse, b"again")
    assert refusal.reason.startswith("drained by an operator")
    assert [node.node for node in mesh.nodes()] == ["other"]
    # A new process under the name is let in.
    assert mesh.greet(b"new", "target", make_profile(), name="target").said(Welcome)


@pytest.mark.parametrize(
    ("command", "node", "error"),
    [
        ("drain", "targe", "no node is named targe, did you mean target?"),
        ("drop", "zzz", "no node is named zzz; present nodes: target"),
        ("reboot", "target", "command 'reboot': drain, undrain and drop are accepted"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(command: str, node: str, error: str) -> None:
    assert reply(begun_mesh().command(command, node)).error == error
