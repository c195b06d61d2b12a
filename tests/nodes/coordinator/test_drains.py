"""Nodes that an operator drains or drops while requests are under way."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.messages import DISMISSED, Bye, Refuse, Welcome
from nodes.coordinator.requests.ledger import STRANDED_LIMIT_S
from nodes.coordinator.sends import Send
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
    failure,
    make_mesh,
    opened,
    said,
    to,
    where,
)


def drained_mesh(*, begins: bool = True, **changes: Any) -> Mesh:
    """begins: with one stream that has one token."""
    mesh = make_mesh(**changes)
    if begins:
        mesh.submit()
        mesh.ready()
        mesh.commit()
    return mesh


def reply(sends: list[Send]) -> NodeCommandReply:
    (found,) = said(sends, NodeCommandReply, ADMIN)
    return found


def has_left(mesh: Mesh, now: float) -> bool:
    """Whether the target is sent a Bye by now."""
    byes = said(mesh.tick(now), Bye, TARGET)
    assert all(bye.reason.startswith("drained by an operator") for bye in byes)
    return bool(byes) and TARGET not in mesh.state.roster.peers()


def test_streams_of_a_drained_target_go_on_elsewhere_and_it_leaves() -> None:
    mesh = drained_mesh()
    mesh.join(OTHER, "target", make_profile())
    sends = mesh.command("drain", "target")
    assert reply(sends) == NodeCommandReply(4, "", 1)
    assert to(TARGET, sends)[0] == CloseStreamNotice(1, 1)
    (there,) = said(sends, OpenStreamRequest, OTHER)
    assert (there.generation, there.token_ids) == (2, (*PROMPT, 9))
    assert has_left(mesh, 0.1)
    assert to(CLIENT, sends) == []


def test_a_stream_that_can_go_nowhere_ends_on_the_drained_target() -> None:
    mesh = drained_mesh()
    mesh.join(OTHER, "target", make_profile(numerics_class="another"))
    mesh.command("drain", "target")
    assert not has_left(mesh, 0.1)
    # What is new goes to the other one.
    assert opened(mesh.submit(2), OTHER) == [2]
    (_, finished) = to(CLIENT, mesh.finish(1, 4))
    assert finished.num_tokens == 2
    assert has_left(mesh, 0.2)


def test_a_stream_goes_as_soon_as_there_is_room() -> None:
    mesh = drained_mesh()
    mesh.command("drain", "target")
    assert opened(mesh.join(OTHER, "target", make_profile()), OTHER) == []
    assert opened(mesh.tick(1.0), OTHER) == [1]


def test_choices_that_wait_behind_their_own_request_end_with_it() -> None:
    """The target has room for one at a time, and there is no other of its class."""
    mesh = drained_mesh(begins=False, max_streams=1)
    mesh.submit(num_choices=2)
    mesh.command("drain", "target")
    assert opened(mesh.finish(1)) == [2]
    assert not has_left(mesh, 0.1)
    mesh.finish(2)
    assert has_left(mesh, 0.2)


def test_without_another_target_new_requests_are_refused_and_those_in_line_given_up() -> None:
    mesh = drained_mesh(max_streams=1)
    mesh.submit(2)
    mesh.command("drain", "target")
    assert failure(mesh.submit(3)) == (
        "unavailable",
        "all target nodes are draining: start another one, or undrain one",
    )
    (failed,) = said(mesh.tick(STRANDED_LIMIT_S), RequestFailedNotice)
    reason = "all targets that could serve this request are draining; no other"
    assert failed.reason.startswith(reason)
    # The one that is under way goes on.
    assert len(to(CLIENT, mesh.finish(1, 4))) == 2


def test_a_target_that_is_taken_back_serves_again() -> None:
    mesh = drained_mesh(max_streams=1)
    mesh.submit(2)
    mesh.command("drain", "target")
    assert reply(mesh.command("undrain", "target")).error == ""
    assert opened(mesh.finish(1, 4)) == [2]
    assert "is not being drained" in reply(mesh.command("undrain", "target")).error


def test_texts_wait_for_a_target_that_is_taken_back() -> None:
    mesh = drained_mesh(begins=False)
    mesh.join(OTHER, "target", make_profile())
    mesh.submit(1)
    mesh.command("drain", "other")
    mesh.submit(2, **TEXT_PROMPT)
    mesh.command("drain", "target")
    mesh.gone(TARGET)
    assert said(mesh.command("undrain", "other"), TokenizeRequest, OTHER)
    assert opened(mesh.tokenized(1, 4, 5, peer=OTHER), OTHER) == [2]


def test_a_drained_draft_node_leaves_at_once_and_its_streams_find_another() -> None:
    mesh = drained_mesh(begins=False, with_draft=True)
    mesh.join(b"d2", "draft", make_profile(0.8))
    (holder,) = {name.encode() for name in where(mesh.submit())} - {TARGET}
    (other,) = {DRAFT, b"d2"} - {holder}
    sends = mesh.command("drain", holder.decode())
    assert isinstance(to(holder, sends)[0], Bye)
    assert [type(m) for m in to(other, sends)] == [OpenStreamRequest]
    assert holder not in mesh.state.roster.peers()


def test_a_dropped_target_is_out_at_once_and_its_process_stays_out() -> None:
    mesh = drained_mesh()
    mesh.join(OTHER, "target", make_profile())
    sends = mesh.command("drop", "target")
    assert isinstance(to(TARGET, sends)[0], Bye)
    assert [m.token_ids for m in said(sends, OpenStreamRequest, OTHER)] == [(*PROMPT, 9)]
    # The process comes back over a new connection, then another process under the name.
    again = {"profile": make_profile(), "name": "target"}
    (refusal,) = mesh.greet(b"again", "target", incarnation=hash(TARGET) % 2**60, **again)
    reason = "dropped by an operator: restart the node to bring it back"
    assert refusal.message == Refuse(reason, DISMISSED)
    assert said(mesh.greet(b"new", "target", incarnation=77, **again), Welcome)


def test_a_drained_target_whose_connection_breaks_has_left() -> None:
    mesh = drained_mesh()
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
    assert reply(drained_mesh().command(command, node)).error == error
