"""Nodes that an operator drains or drops while requests are under way."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.codec import encode_struct
from mesh.messages import DISMISSED, PROTOCOL_VERSION, Bye, Hello, Ping, Refuse, Welcome
from nodes.coordinator.placing.stranded import STRANDED_LIMIT_S
from nodes.coordinator.sends import Send
from nodes.messages import (
    CloseStreamNotice,
    NodeCommandReply,
    NodeCommandRequest,
    NodesReply,
    NodesRequest,
    OpenStreamRequest,
    StreamReadyNotice,
    TokenizeReply,
    TokenizeRequest,
)
from tests.nodes.builders import PROMPT, make_profile, make_submit
from tests.nodes.coordinator.script import (
    CLIENT,
    DRAFT,
    OTHER,
    TARGET,
    Mesh,
    failure,
    make_mesh,
    opened,
    to,
)
from tests.nodes.coordinator.test_serving import commit, opening

ADMIN = b"admin"


def drained_mesh(**changes: Any) -> Mesh:
    mesh = make_mesh(**changes)
    mesh.join(ADMIN, "admin")
    return mesh


def say(mesh: Mesh, command: str, node: str = "target", now: float = 0.0) -> list[Send]:
    return mesh.hear(ADMIN, NodeCommandRequest(4, command, node), now)


def reply(sends: list[Send]) -> NodeCommandReply:
    (found,) = [m for m in to(ADMIN, sends) if isinstance(m, NodeCommandReply)]
    return found


def begin(mesh: Mesh) -> None:
    """One stream with one token."""
    mesh.hear(CLIENT, make_submit())
    mesh.hear(TARGET, StreamReadyNotice(1, 1))
    mesh.hear(TARGET, commit(1, 1, 3, b"a"))


def tick(mesh: Mesh, now: float) -> list[Send]:
    return mesh.state.tick(now)


def test_streams_of_a_drained_target_go_on_elsewhere_and_it_leaves() -> None:
    mesh = drained_mesh()
    begin(mesh)
    mesh.join(OTHER, "target", make_profile())
    sends = say(mesh, "drain")
    assert reply(sends) == NodeCommandReply(4, "", 1)
    assert to(TARGET, sends)[0] == CloseStreamNotice(1, 1)
    there = opening(sends, OTHER)
    assert (there.generation, there.token_ids) == (2, (*PROMPT, 9))
    (bye,) = [m for m in to(TARGET, tick(mesh, 0.1)) if isinstance(m, Bye)]
    assert bye.reason.startswith("drained by an operator")
    assert TARGET not in mesh.state.peers()
    assert to(CLIENT, sends) == []


def test_a_stream_that_can_go_nowhere_ends_on_the_drained_target() -> None:
    mesh = drained_mesh()
    begin(mesh)
    mesh.join(OTHER, "target", make_profile(numerics_class="another"))
    say(mesh, "drain")
    assert not any(isinstance(m, Bye) for m in to(TARGET, tick(mesh, 0.1)))
    # What is new goes to the other one.
    assert opened(mesh.hear(CLIENT, make_submit(2)), OTHER) == [2]
    (_, finished) = to(CLIENT, mesh.hear(TARGET, commit(1, 1, 4, b"b", "stop")))
    assert finished.num_tokens == 2
    assert any(isinstance(m, Bye) for m in to(TARGET, tick(mesh, 0.2)))


def test_a_stream_goes_as_soon_as_there_is_room() -> None:
    mesh = drained_mesh()
    begin(mesh)
    say(mesh, "drain")
    assert opened(mesh.join(OTHER, "target", make_profile()), OTHER) == []
    assert opened(tick(mesh, 1.0), OTHER) == [1]


def test_choices_that_wait_behind_their_own_request_end_with_it() -> None:
    """The target has room for one at a time, and there is no other of its class."""
    mesh = drained_mesh(max_streams=1)
    mesh.hear(CLIENT, make_submit(1, num_choices=2))
    say(mesh, "drain")
    assert opened(mesh.hear(TARGET, commit(1, 1, 3, b"a", "stop"))) == [2]
    assert not any(isinstance(m, Bye) for m in to(TARGET, tick(mesh, 0.1)))
    mesh.hear(TARGET, commit(2, 1, 3, b"a", "stop"))
    assert any(isinstance(m, Bye) for m in to(TARGET, tick(mesh, 0.2)))


def test_without_another_target_new_requests_are_refused_and_those_in_line_given_up() -> None:
    mesh = drained_mesh(max_streams=1)
    begin(mesh)
    mesh.hear(CLIENT, make_submit(2))
    say(mesh, "drain")
    code, reason = failure(mesh.hear(CLIENT, make_submit(3)))
    assert (code, reason) == (
        "unavailable",
        "all target nodes are draining: start another one, or undrain one",
    )
    mesh.state._roster._membership._heartbeat_timeout_s = 1e9
    failed = [s for s in tick(mesh, STRANDED_LIMIT_S) if not isinstance(s.message, Ping)]
    code, reason = failure(failed)
    assert reason.startswith("all targets that could serve this request are draining; no other")
    assert mesh.state._serving.ledger.requests.keys() == {(CLIENT, 1)}


def test_a_target_that_is_taken_back_serves_again() -> None:
    mesh = drained_mesh(max_streams=1)
    begin(mesh)
    mesh.hear(CLIENT, make_submit(2))
    say(mesh, "drain")
    assert reply(say(mesh, "undrain")).error == ""
    assert opened(mesh.hear(TARGET, commit(1, 1, 4, b"b", "stop"))) == [2]
    assert "is not being drained" in reply(say(mesh, "undrain")).error


def test_texts_wait_for_a_target_that_is_taken_back() -> None:
    mesh = drained_mesh()
    mesh.join(OTHER, "target", make_profile())
    begin(mesh)
    say(mesh, "drain", "other")
    mesh.hear(CLIENT, make_submit(2, prompt="hi", prompt_token_ids=()))
    say(mesh, "drain", "target")
    mesh.state.peer_gone(TARGET, 0.0)
    sends = say(mesh, "undrain", "other")
    assert [m for m in to(OTHER, sends) if isinstance(m, TokenizeRequest)]
    answer = mesh.hear(OTHER, TokenizeReply(1, "", (4, 5)))
    assert opened(answer, OTHER) == [2]


def test_a_drained_draft_node_leaves_at_once_and_its_streams_find_another() -> None:
    mesh = drained_mesh(with_draft=True)
    mesh.join(b"d2", "draft", make_profile(0.8))
    mesh.hear(CLIENT, make_submit())
    (holder,) = {peer for peer in (DRAFT, b"d2") if mesh.state._drafts[peer.decode()].followed}
    (other,) = {DRAFT, b"d2"} - {holder}
    sends = say(mesh, "drain", holder.decode())
    assert isinstance(to(holder, sends)[0], Bye)
    assert [type(m) for m in to(other, sends)] == [OpenStreamRequest]
    assert holder not in mesh.state.peers()


def test_a_dropped_target_is_out_at_once_and_its_process_stays_out() -> None:
    mesh = drained_mesh()
    begin(mesh)
    mesh.join(OTHER, "target", make_profile())
    sends = say(mesh, "drop")
    assert isinstance(to(TARGET, sends)[0], Bye)
    assert opening(sends, OTHER).token_ids == (*PROMPT, 9)
    # The process comes back over a new connection, then another process under the name.
    same = Hello("target", "target", hash(TARGET) % 2**60, PROTOCOL_VERSION, encoded())
    (refusal,) = to(b"again", mesh.hear(b"again", same))
    reason = "dropped by an operator: restart the node to bring it back"
    assert refusal == Refuse(reason, DISMISSED)
    another = Hello("target", "target", 77, PROTOCOL_VERSION, encoded())
    assert isinstance(to(b"new", mesh.hear(b"new", another))[0], Welcome)


def encoded() -> bytes:
    return encode_struct(make_profile())


def test_a_drained_target_whose_connection_breaks_has_left() -> None:
    mesh = drained_mesh()
    begin(mesh)
    say(mesh, "drain")
    mesh.state.peer_gone(TARGET, 0.0)
    same = Hello("target", "target", hash(TARGET) % 2**60, PROTOCOL_VERSION, encoded())
    (refusal,) = to(b"again", mesh.hear(b"again", same))
    assert refusal.reason.startswith("drained by an operator")


@pytest.mark.parametrize(
    ("command", "node", "error"),
    [
        ("drain", "targe", "no node is named targe, did you mean target?"),
        ("drop", "zzz", "no node is named zzz; present nodes: target"),
        ("reboot", "target", "command 'reboot': drain, undrain and drop are accepted"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(command: str, node: str, error: str) -> None:
    assert reply(say(drained_mesh(), command, node)).error == error


def test_a_client_is_told_who_is_being_drained() -> None:
    mesh = drained_mesh()
    begin(mesh)
    say(mesh, "drain")
    (told,) = to(CLIENT, mesh.hear(CLIENT, NodesRequest(2)))
    assert isinstance(told, NodesReply)
    assert [(n.node, n.is_draining, n.num_streams) for n in told.nodes] == [("target", True, 1)]
