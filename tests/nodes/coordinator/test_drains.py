"""Nodes that an operator drains or drops while requests are under way."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.messages import DISMISSED, Bye, Refuse, Welcome
from nodes.coordinator.requests.ledger import STRANDED_LIMIT_S
from nodes.messages import (
    CloseStreamNotice,
    NodeCommandReply,
    OpenStreamRequest,
    RequestFailedNotice,
    TokenizeRequest,
)
from tests.nodes.builders import PROMPT, make_profile
from tests.nodes.coordinator.script import (
    ADMIN,
    CLIENT,
    DRAFT,
    OTHER,
    TARGET,
    TEXT_PROMPT,
    Mesh,
    Sends,
    make_mesh,
)


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
    assert mesh.command("undrain", "other").said(TokenizeRequest, OTHER)
    assert mesh.tokenized(1, 4, 5, peer=OTHER).opened(OTHER) == [2]


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


def test_a_drained_target_whose_connection_breaks_has_left() -> None:
    mesh = begun_mesh()
    mesh.command("drain", "target")
    mesh.gone(TARGET)
    (refusal,) = mesh.greet(TARGET, "target", make_profile())
    assert refusal.message.reason.startswith("drained by an operator")


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
