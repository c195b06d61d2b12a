"""Roles and messages: every pair that is not listed changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airdraft.mesh.codec import encode_struct
from airdraft.mesh.messages import PROTOCOL_VERSION, Hello, Refuse, Welcome
from airdraft.nodes.coordinator import dispatch
from airdraft.nodes.coordinator.sends import Send
from airdraft.nodes.messages import GuessNotice, StatusRequest, TraceRequest
from airdraft.nodes.messages.access import ANYBODY, CLIENT_ROLES, ROLES, Caller, ForbiddenError
from tests.nodes.builders import make_profile
from tests.nodes.coordinator.examples import MESSAGES
from tests.nodes.coordinator.script import CLUSTER, EPOCH, Mesh, make_mesh

PEERS = {role: role.encode() for role in ROLES}
PAIRS = [(role, message) for role in sorted(ROLES) for message in MESSAGES]


def one_of_each() -> Mesh:
    """One of each role is in, and one stream is under way."""
    mesh = make_mesh(with_draft=True)
    for role in ("gateway", "admin", "stage"):
        mesh.join(PEERS[role], role)
    mesh.submit(peer=PEERS["client"])
    return mesh


def hear(mesh: Mesh, role: str, message: Any, *roles: str) -> list[Send]:
    """A message of the member of a role, whose key has these roles, or that one only."""
    caller = Caller(role, frozenset(roles or {role}))
    return mesh.state.on_message(PEERS[role], CLUSTER, EPOCH, message, 10, 1.0, caller)


def seen(mesh: Mesh) -> Any:
    """All that is shown of requests, streams and members and what they last did, but for aliases
    and for bytes, which are counted whoever sends them."""
    status = mesh.status(1.0)
    streams = [replace(stream, client="") for stream in status.streams]
    totals = replace(status.totals, wire=())
    return mesh.state.reporting.num_stale, replace(status, streams=tuple(streams), totals=totals)


@pytest.mark.parametrize(
    ("role", "message"), PAIRS, ids=[f"{r}-{type(m).__name__}" for r, m in PAIRS]
)
def test_forbidden_messages_change_no_state(role: str, message: Any) -> None:
    """Keys tell the roles."""
    mesh = one_of_each()
    if type(message) in dispatch.kinds_of(role):
        hear(mesh, role, message)
        return
    with pytest.raises(ForbiddenError, match=f"a {role} may not send {type(message).__name__}"):
        hear(mesh, role, message)
    assert seen(mesh) == seen(one_of_each())


@pytest.mark.parametrize("role", sorted(ROLES))
@pytest.mark.parametrize("wanted", [*sorted(ROLES), "guest", "oracle", ""])
def test_a_key_joins_only_in_its_roles(role: str, wanted: str) -> None:
    mesh = Mesh()
    caller = Caller("nano", frozenset({role}))
    profile = b"" if wanted in CLIENT_ROLES else encode_struct(make_profile())
    hello = Hello("one", wanted, 3, PROTOCOL_VERSION, profile)
    # A target is asked for a proof as well.
    send, *_ = mesh.state.on_message(b"p", "", 0, hello, 10, 0.0, caller)
    if wanted == role:
        # Its name in the mesh begins with that of its key.
        assert isinstance(send.message, Welcome)
        assert send.message.node == "nano/one"
        assert mesh.state.roster.roles() == {b"p": role}
    else:
        assert isinstance(send.message, Refuse)
        assert mesh.state.roster.roles() == {}


@pytest.mark.parametrize("roles", [("client",), ("admin", "gateway")])
def test_a_key_that_lost_a_role_is_not_heard_in_it(roles: tuple[str, ...]) -> None:
    guesses = next(m for m in MESSAGES if type(m) is GuessNotice)
    with pytest.raises(ForbiddenError):
        hear(one_of_each(), "draft", guesses, *roles)


def test_no_key_can_throw_out_anothers_node() -> None:
    """Two keys whose nodes say the same name are two nodes."""
    mesh = Mesh()
    hello = Hello("draft", "client", 3, PROTOCOL_VERSION, b"")
    for number, name in enumerate(("a", "b")):
        caller = Caller(name, frozenset({"client"}))
        mesh.state.on_message(b"%d" % number, "", 0, hello, 10, 0.0, caller)
    assert len(mesh.state.roster.peers()) == 2


def may_send(role: str, message: type, *roles: str) -> bool:
    """Whether a key of these roles, or anybody where there are no keys, may send this."""
    caller = Caller("nano", frozenset(roles)) if roles else ANYBODY
    return dispatch.may_send(caller, role, message)


def test_counts_and_times_of_all_streams_are_for_operators() -> None:
    for message, allowed in ((StatusRequest, {"admin", "gateway"}), (TraceRequest, {"admin"})):
        assert {role for role in ROLES if may_send(role, message, role)} == allowed
        # Whatever else the key may be: the role that a member joined in counts.
        assert not may_send("client", message, "client", "admin")
        # Without keys a client could say that it is an admin.
        assert {role for role in ROLES if may_send(role, message)} == CLIENT_ROLES


def test_without_keys_a_member_says_itself_what_it_is() -> None:
    assert all(ANYBODY.may_join_as(role) for role in ROLES)
    assert not ANYBODY.may_join_as("guest")
    assert ANYBODY.node_name("x") == "x"
