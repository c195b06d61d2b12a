"""Roles and messages: every pair that is not listed changes nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import mesh.messages
import nodes.messages
from mesh.codec import encode_struct
from mesh.messages import PROTOCOL_VERSION, Hello, Refuse, Welcome, spec_of_class, spec_of_tag
from nodes.coordinator.state import CoordinatorState
from nodes.messages import OpenStreamRequest, StatusRequest, TraceRequest
from nodes.messages.access import (
    ANYBODY,
    CLIENT_ROLES,
    MAY_SEND,
    ROLES,
    Caller,
    ForbiddenError,
)
from tests.nodes.builders import make_profile, make_submit
from tests.nodes.coordinator.examples import MESSAGES
from tests.nodes.coordinator.script import CLUSTER, EPOCH, Mesh, make_mesh

PEERS = {role: role.encode() for role in ROLES}
PAIRS = [(role, message) for role in sorted(ROLES) for message in MESSAGES]


def test_every_message_of_the_wire_is_among_the_examples() -> None:
    modules = (mesh.messages.__name__, nodes.messages.__name__ + ".")
    declared = {
        spec.layout.cls
        for tag in range(1, 256)
        if (spec := spec_of_tag(tag)) is not None and spec.layout.cls.__module__.startswith(modules)
    }
    assert {type(message) for message in MESSAGES} == declared
    assert all(spec_of_class(type(message)) is not None for message in MESSAGES)


def seen(state: CoordinatorState) -> Any:
    """Everything that a message may change: requests, streams, members and what they last did."""
    scheduler = state._roster.schedulers()[0][1]
    members = [
        (m.node, m.role, m.last_seen, m.progress) for m in state._roster._membership.members()
    ]
    streams = {
        key: (list(stream.token_ids), repr(stream.phase))
        for key, stream in scheduler.state.streams.items()
    }
    serving = state._serving
    waiting = [choice.spec.stream_id for _, choice in serving.placement.waiting]
    return copy.deepcopy(
        (members, sorted(map(str, serving.ledger.requests)), streams, state.num_stale, waiting)
    )


@pytest.mark.parametrize(
    ("role", "message"), PAIRS, ids=[f"{r}-{type(m).__name__}" for r, m in PAIRS]
)
def test_forbidden_messages_change_no_state(role: str, message: Any) -> None:
    """One of each role is in, and one stream is under way; keys tell the roles."""
    mesh = make_mesh(with_draft=True)
    mesh.join(PEERS["gateway"], "gateway")
    mesh.join(PEERS["admin"], "admin")
    mesh.hear(PEERS["client"], make_submit(1))
    caller = Caller(role, frozenset({role}))
    before = seen(mesh.state)

    def hear() -> Any:
        return mesh.state.on_message(PEERS[role], CLUSTER, EPOCH, message, 10, 1.0, caller)

    if type(message) in MAY_SEND[role]:
        hear()
        return
    with pytest.raises(ForbiddenError, match=f"a {role} may not send {type(message).__name__}"):
        hear()
    assert seen(mesh.state) == before


@pytest.mark.parametrize("role", sorted(ROLES))
@pytest.mark.parametrize("wanted", [*sorted(ROLES), "guest", "oracle", ""])
def test_a_key_joins_only_in_its_roles(role: str, wanted: str) -> None:
    mesh = Mesh()
    caller = Caller("nano", frozenset({role}))
    profile = b"" if wanted in CLIENT_ROLES else encoded_profile()
    hello = Hello("one", wanted, 3, PROTOCOL_VERSION, profile)
    # A target is asked for a proof as well.
    send, *_ = mesh.state.on_message(b"p", "", 0, hello, 10, 0.0, caller)
    if wanted == role:
        # Its name in the mesh begins with that of its key.
        assert isinstance(send.message, Welcome)
        assert send.message.node == "nano/one"
        assert mesh.state.roles() == {b"p": role}
    else:
        assert isinstance(send.message, Refuse)
        assert mesh.state.roles() == {}


def encoded_profile() -> bytes:
    return encode_struct(make_profile())


def test_a_key_that_lost_a_role_is_not_heard_in_it() -> None:
    mesh = make_mesh(with_draft=True)
    for roles in (frozenset({"client"}), frozenset[str]()):
        with pytest.raises(ForbiddenError):
            mesh.state.on_message(
                PEERS["draft"],
                CLUSTER,
                EPOCH,
                next(m for m in MESSAGES if type(m).__name__ == "GuessNotice"),
                10,
                0.0,
                Caller("nano", roles),
            )


def test_no_key_can_throw_out_anothers_node() -> None:
    """Two keys whose nodes say the same name are two nodes."""
    mesh = Mesh()
    hello = Hello("draft", "client", 3, PROTOCOL_VERSION, b"")
    for number, name in enumerate(("a", "b")):
        caller = Caller(name, frozenset({"client"}))
        mesh.state.on_message(b"%d" % number, "", 0, hello, 10, 0.0, caller)
    assert len(mesh.state.peers()) == 2


def may_send(role: str, message: type, *roles: str) -> bool:
    """Whether a key of these roles, or anybody where there are no keys, may send this."""
    caller = Caller("nano", frozenset(roles)) if roles else ANYBODY
    return caller.may_send(role, next(m for m in MESSAGES if type(m) is message))


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


def test_prefixes_are_shared_by_the_requests_of_one_key_and_of_nobody_else() -> None:
    """Without keys by those of one connection."""
    mesh = make_mesh()
    mesh.join(b"p", "client", name="p")
    owners = []
    for number, (peer, name) in enumerate(
        [(PEERS["client"], "alice"), (b"p", "alice"), (b"p", "bob"), (b"p", ""), (b"p", "")]
    ):
        caller = Caller(name, frozenset({"client"})) if name else ANYBODY
        submit = make_submit(number)
        sends = mesh.state.on_message(peer, CLUSTER, EPOCH, submit, 10, 0.0, caller)
        owners += [s.message.owner for s in sends if isinstance(s.message, OpenStreamRequest)]
    assert owners == ["alice", "alice", "bob", b"p".hex(), b"p".hex()]
