"""Models, users, gateways and limits of what is submitted."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.messages import Bye
from nodes.config.settings import LimitSettings
from nodes.coordinator.placing.stranded import STRANDED_LIMIT_S
from nodes.coordinator.requests.holdings import MAX_OF_CONNECTION
from nodes.coordinator.requests.intake import owner_of
from nodes.coordinator.sends import Send
from nodes.messages import (
    CancelRequest,
    ChatMessage,
    CommitEntry,
    CommitReply,
    NodesReply,
    NodesRequest,
    OpenStreamRequest,
    RequestFailedNotice,
    TokenizeReply,
    TokenizeRequest,
)
from nodes.messages.access import Caller
from tests.nodes.builders import make_profile, make_submit
from tests.nodes.coordinator.script import (
    CLIENT,
    CLUSTER,
    EPOCH,
    OTHER,
    TARGET,
    Mesh,
    failure,
    opened,
    to,
)

GATEWAY = b"gateway"
SMALL, LARGE = b"small", b"large"


def make_mesh(limits: LimitSettings | None = None, **changes: Any) -> Mesh:
    """One target, a client and a gateway."""
    mesh = Mesh(limits=limits)
    mesh.join(TARGET, "target", make_profile(**changes))
    mesh.join(CLIENT, "client")
    mesh.join(GATEWAY, "gateway")
    return mesh


def two_models() -> Mesh:
    """Two targets of a small model, one of a large one that has more cells than both."""
    mesh = Mesh()
    small = {"model": "small.gguf", "model_hash": "s", "numerics_class": "s", "num_cells": 512}
    large = {"model": "large.gguf", "model_hash": "l", "numerics_class": "l"}
    for peer in (SMALL, b"small2"):
        mesh.join(peer, "target", make_profile(**small))
    mesh.join(LARGE, "target", make_profile(**large))
    mesh.join(CLIENT, "client")
    return mesh


def where(sends: list[Send], kind: type = OpenStreamRequest) -> list[bytes]:
    return [send.peer for send in sends if isinstance(send.message, kind)]


# -- models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "peers"),
    [
        ("small.gguf", [SMALL, b"small2"]),
        ("small", [SMALL, b"small2"]),
        ("large.gguf", [LARGE, LARGE]),
        # The one with the most cells, whatever the load.
        ("", [LARGE, LARGE]),
    ],
)
def test_a_request_is_served_by_targets_of_its_model(model: str, peers: list[bytes]) -> None:
    mesh = two_models()
    found = [where(mesh.hear(CLIENT, make_submit(n, model=model))) for n in (1, 2)]
    assert sorted(found) == sorted([peer] for peer in peers)


def test_a_text_is_tokenized_by_a_target_of_its_model() -> None:
    mesh = two_models()
    text = make_submit(1, prompt="x", prompt_token_ids=(), model="small")
    (peer,) = where(mesh.hear(CLIENT, text), TokenizeRequest)
    assert peer in (SMALL, b"small2")
    assert set(where(mesh.hear(peer, TokenizeReply(1, "", (5,))))) <= {SMALL, b"small2"}


def test_a_name_that_is_shown_is_taken_however_long_the_model_is_called() -> None:
    mesh = make_mesh(model="m" * 200)
    (reply,) = to(CLIENT, mesh.hear(CLIENT, NodesRequest(1)))
    assert isinstance(reply, NodesReply)
    shown = reply.nodes[0].model
    assert len(shown) < 200
    assert opened(mesh.hear(CLIENT, make_submit(1, model=shown))) == [1]


def test_a_model_that_nobody_has_is_not_found() -> None:
    mesh = two_models()
    code, reason = failure(mesh.hear(CLIENT, make_submit(1, model="none")))
    assert (code, reason) == (
        "not_found",
        "no target has model 'none'; present models: large.gguf, small.gguf",
    )
    assert mesh.state._serving.ledger.requests == {}


def test_who_waits_for_a_model_that_is_away_goes_to_no_other_and_new_ones_wait_as_well() -> None:
    mesh = two_models()
    mesh.hear(CLIENT, make_submit(1, model="large"))
    mesh.hear(CLIENT, make_submit(2, prompt="x", prompt_token_ids=(), model="large"))
    sends = mesh.hear(LARGE, Bye("over"))
    assert (to(CLIENT, sends), where(sends), where(sends, TokenizeRequest)) == ([], [], [])
    for number, text in ((3, {}), (4, {"prompt": "x", "prompt_token_ids": ()})):
        sends = mesh.hear(CLIENT, make_submit(number, model="large", **text))
        assert (to(CLIENT, sends), where(sends), where(sends, TokenizeRequest)) == ([], [], [])
    again = make_profile(model="large.gguf", model_hash="l", numerics_class="l")
    sends = mesh.join(b"large2", "target", again)
    assert where(sends) == [b"large2", b"large2"]
    assert where(sends, TokenizeRequest) == [b"large2", b"large2"]


def test_a_new_request_is_refused_where_no_target_is_expected_back() -> None:
    mesh = two_models()
    mesh.state.peer_gone(LARGE, 0.0)
    waiting, late = make_submit(1, model="large"), make_submit(2, model="large")
    assert mesh.hear(CLIENT, waiting, STRANDED_LIMIT_S - 0.1) == []
    assert failure(mesh.hear(CLIENT, late, STRANDED_LIMIT_S)) == (
        "unavailable",
        "no target of model 'large' is present: try later",
    )
    # It is still there itself.
    mesh.hear(CLIENT, NodesRequest(9), 2 * STRANDED_LIMIT_S - 0.2)
    given_up = to(CLIENT, mesh.state.tick(2 * STRANDED_LIMIT_S))
    given_up = [m for m in given_up if isinstance(m, RequestFailedNotice)]
    assert [(m.request_id, m.code) for m in given_up] == [(1, "unavailable")]
    assert given_up[0].reason == (
        "the target of this request has left; no other suitable target joined within 30 s"
    )


def test_what_waits_for_one_model_does_not_keep_out_another() -> None:
    mesh = Mesh()
    for name in ("a", "b"):
        profile = make_profile(model=name, model_hash=name, max_streams=1)
        mesh.join(name.encode(), "target", profile)
    mesh.join(CLIENT, "client")
    for number in range(1, 4):
        mesh.hear(CLIENT, make_submit(number, model="a"))
    # Toys of all models call their numerics alike.
    assert where(mesh.hear(CLIENT, make_submit(4, model="b"))) == [b"b"]


# -- users -----------------------------------------------------------------------------------------


def test_users_share_prefixes_with_themselves_only() -> None:
    mesh = make_mesh()
    mesh.join(OTHER, "gateway")
    owners = []
    for number, (peer, name, user) in enumerate(
        [
            (GATEWAY, "gw", "ann"),
            (OTHER, "gw", "ann"),
            (GATEWAY, "gw", "bob"),
            (GATEWAY, "gw", ""),
            (CLIENT, "cl", "ann"),
        ]
    ):
        caller = Caller(name, frozenset({"client", "gateway"}))
        submit = make_submit(number, user=user)
        sends = mesh.state.on_message(peer, CLUSTER, EPOCH, submit, 10, 0.0, caller)
        owners += [s.message.owner for s in sends if isinstance(s.message, OpenStreamRequest)]
    assert owners[0] == owners[1]
    assert owners[3] == "gw"
    assert len(set(owners)) == 4
    # Nodes are not told what users are called.
    assert not any("ann" in owner for owner in owners)


def test_a_long_name_of_a_user_is_an_owner_all_the_same() -> None:
    names = {owner_of("k" * 64, "u" * 255 + end) for end in "ab"}
    assert len(names) == 2
    assert max(map(len, names)) <= 256


def finish(stream_id: int) -> CommitReply:
    return CommitReply(0.0, (CommitEntry(stream_id, 1, 3, 1, 0, 0, "stop", b"!"),), (9,))


def in_turn(peer: bytes, users: list[str]) -> list[int]:
    """Request ids in the order of their places, on a target with one place; one a second."""
    mesh = make_mesh(max_streams=1)
    order: list[int] = []
    for number, user in enumerate(users):
        order += opened(mesh.hear(peer, make_submit(number + 1, user=user), float(number)))
    for now in range(len(users) - 1):
        order += opened(mesh.hear(TARGET, finish(order[-1]), 100.0 + now))
    return order


def test_users_of_a_gateway_take_turns() -> None:
    assert in_turn(GATEWAY, ["a", "a", "a", "a", "b", "b"]) == [1, 2, 5, 3, 6, 4]


def test_a_client_gets_no_more_turns_by_inventing_users() -> None:
    assert in_turn(CLIENT, ["a", "a", "a", "a", "b", "b"]) == [1, 2, 3, 4, 5, 6]


# -- limits ----------------------------------------------------------------------------------------


def test_gateways_may_have_more_under_way_than_clients() -> None:
    mesh = make_mesh(LimitSettings(max_requests=2, max_gateway_requests=3), max_streams=1)
    for peer, role, limit in ((CLIENT, "client", 2), (GATEWAY, "gateway", 3)):
        for number in range(limit):
            mesh.hear(peer, make_submit(number))
        sends = mesh.hear(peer, make_submit(limit))
        reason = f"{limit} requests of this {role} are under way"
        assert failure(sends, peer) == ("overloaded", reason)
        mesh.hear(peer, CancelRequest(limit - 1))
        assert to(peer, mesh.hear(peer, make_submit(limit))) == []


def test_what_waits_of_gateways_keeps_no_client_out() -> None:
    limits = LimitSettings(max_waiting=1, max_gateway_waiting=2)
    mesh = make_mesh(limits, max_streams=1)
    for number in range(3):
        mesh.hear(GATEWAY, make_submit(number))
    sends = mesh.hear(GATEWAY, make_submit(3))
    assert failure(sends, GATEWAY) == ("overloaded", "2 streams are waiting already: try later")
    assert mesh.hear(CLIENT, make_submit(1)) == []
    assert failure(mesh.hear(CLIENT, make_submit(2)))[0] == "overloaded"


@pytest.mark.slow
def test_ten_thousand_streams_of_a_gateway_may_wait_and_end_with_it() -> None:
    mesh = make_mesh(max_streams=1)
    for number in range(10_001):
        mesh.hear(GATEWAY, make_submit(number, user=f"u{number % 50}"))
    assert mesh.state._serving.num_waiting("gateway") == 10_000
    sends = mesh.state.peer_gone(GATEWAY, 0.0)
    # None of those that wait gets a place for a moment.
    assert opened(sends) == []
    assert mesh.state._serving.ledger.requests == {} == mesh.state._serving.ledger.streams
    assert mesh.state._serving.ledger.num_requests(GATEWAY) == 0


def test_texts_of_one_connection_are_bounded_together() -> None:
    mesh = make_mesh()
    most = ChatMessage("user", "x" * (1 << 18))
    number = 0
    asked: dict[str, Any] = {"messages": (most,) * 4, "prompt_token_ids": ()}
    for number in range(MAX_OF_CONNECTION >> 20):
        mesh.hear(GATEWAY, make_submit(number, user=f"u{number % 8}", **asked))
    sends = mesh.hear(GATEWAY, make_submit(number + 1, prompt="x", prompt_token_ids=()))
    code, reason = failure(sends, GATEWAY)
    assert (code, reason.partition(" has ")[0]) == ("overloaded", "this gateway")
    # A text that has become ids is kept no longer.
    mesh.hear(TARGET, TokenizeReply(1, "", (5, 6)))
    assert mesh.state._serving.ledger.requests[GATEWAY, 0].submit.messages == ()
    assert to(GATEWAY, mesh.hear(GATEWAY, make_submit(99, prompt="x", prompt_token_ids=()))) == []
