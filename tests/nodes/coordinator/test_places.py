"""Streams that wait for a place at a target, and places that become free."""

from __future__ import annotations

import pytest

from mesh.messages import Bye, Pong
from nodes.config.settings import LimitSettings
from nodes.messages import CancelRequest, CloseStreamNotice, CommitEntry, CommitReply, StartedNotice
from tests.nodes.builders import make_profile, make_submit
from tests.nodes.coordinator.script import (
    CLIENT,
    OTHER,
    TARGET,
    Mesh,
    failure,
    finish,
    make_mesh,
    opened,
    to,
)


def test_streams_wait_for_sequences_and_clients_take_turns() -> None:
    mesh = make_mesh(max_streams=2)
    mesh.join(OTHER, "client")
    assert opened(mesh.hear(CLIENT, make_submit(1, num_choices=3))) == [1, 2]
    assert mesh.hear(OTHER, make_submit(1)) == []
    sends = mesh.hear(TARGET, finish(2))
    assert opened(sends) == [4]
    assert isinstance(to(OTHER, sends)[0], StartedNotice)
    assert opened(mesh.hear(TARGET, finish(1))) == [3]


def test_a_stream_that_waits_for_cells_is_not_overtaken_by_a_smaller_one() -> None:
    mesh = make_mesh(num_cells=100)
    assert opened(mesh.hear(CLIENT, make_submit(1, max_tokens=40))) == [1]
    assert mesh.hear(CLIENT, make_submit(2, max_tokens=40)) == []
    assert mesh.hear(CLIENT, make_submit(3, max_tokens=1)) == []
    assert opened(mesh.hear(TARGET, finish(1))) == [2, 3]


def test_output_that_is_yet_to_come_keeps_nobody_waiting() -> None:
    # 3 tokens, 64 of growth and 16 guesses each, though each may come to 519 cells.
    mesh = make_mesh(num_cells=600)
    sends = mesh.hear(CLIENT, make_submit(1, max_tokens=500, num_choices=8))
    assert opened(sends) == [1, 2, 3, 4, 5, 6, 7]
    # The eighth waits for room: one that ends makes it, one that goes on does not.
    commit = CommitEntry(1, 1, 3, 2, 0, 0, "", b"!!")
    assert opened(mesh.hear(TARGET, CommitReply(0.0, (commit,), (9, 9)))) == []
    assert opened(mesh.hear(TARGET, finish(2))) == [8]


def test_a_stream_that_alone_cannot_fit_is_refused() -> None:
    mesh = make_mesh(num_cells=600)
    code, reason = failure(mesh.hear(CLIENT, make_submit(1, max_tokens=582)))
    assert code == "bad_request"
    assert "exceed the 600" in reason


def test_more_than_may_wait_are_refused() -> None:
    mesh = Mesh(limits=LimitSettings(max_waiting=2))
    mesh.join(TARGET, "target", make_profile(max_streams=1))
    mesh.join(CLIENT, "client")
    for request_id in (1, 2, 3):
        mesh.hear(CLIENT, make_submit(request_id))
    sends = mesh.hear(CLIENT, make_submit(4))
    assert failure(sends) == ("overloaded", "2 streams are waiting already: try later")


def test_cancelling_frees_the_place_for_who_waits() -> None:
    mesh = make_mesh(max_streams=1)
    mesh.hear(CLIENT, make_submit(1))
    mesh.hear(CLIENT, make_submit(2))
    sends = mesh.hear(CLIENT, CancelRequest(1))
    assert to(TARGET, sends)[0] == CloseStreamNotice(1, 1)
    assert opened(sends) == [2]
    (finished, _) = to(CLIENT, sends)
    assert finished.finish_reason == "cancelled"
    assert mesh.hear(CLIENT, CancelRequest(1)) == []
    # A waiting one goes without a trace.
    mesh.hear(CLIENT, make_submit(3))
    mesh.hear(CLIENT, CancelRequest(3))
    assert opened(mesh.hear(TARGET, finish(2))) == []


@pytest.mark.parametrize("how", ["cancel", "deadline", "bye"])
def test_who_stood_behind_one_that_left_the_line_gets_the_room_that_there_is(how: str) -> None:
    mesh = make_mesh(num_cells=100)
    mesh.join(OTHER, "client")
    assert opened(mesh.hear(CLIENT, make_submit(1, max_tokens=1))) == [1]
    # It needs 99 of the 100 cells, and nobody overtakes it.
    assert mesh.hear(OTHER, make_submit(1, max_tokens=80, deadline_s=1.0)) == []
    assert mesh.hear(CLIENT, make_submit(2, max_tokens=1)) == []
    now = 0.1
    if how == "cancel":
        mesh.hear(OTHER, CancelRequest(1), now)
    elif how == "bye":
        mesh.hear(OTHER, Bye("done"), now)
    else:
        now = 1.1
    assert opened(mesh.state.tick(now)) == [3]
    assert opened(mesh.state.tick(now)) == []


@pytest.mark.parametrize("how", ["bye", "gone", "silent"])
def test_a_client_that_leaves_cancels_its_requests(how: str) -> None:
    mesh = make_mesh(max_streams=2)
    mesh.hear(CLIENT, make_submit(1, num_choices=3))
    if how == "bye":
        sends = mesh.hear(CLIENT, Bye("done"))
    elif how == "gone":
        sends = mesh.state.peer_gone(CLIENT, 0.0)
    else:
        mesh.hear(TARGET, Pong(0, 1), 4.0)
        sends = mesh.state.tick(6.0)
    closed = {m.stream_id for m in to(TARGET, sends) if isinstance(m, CloseStreamNotice)}
    assert closed >= {1, 2}
    assert closed == {1, 2} | set(opened(sends))
    mesh.join(OTHER, "client")
    assert len(opened(mesh.hear(OTHER, make_submit(1, num_choices=2)))) == 2


def test_a_client_that_leaves_ends_all_its_requests_whatever_ends_with_them() -> None:
    """A target comes back smaller: one waiting request has none that could serve it."""
    mesh = Mesh()
    mesh.join(TARGET, "target", make_profile(max_streams=1, num_cells=8192))
    mesh.join(CLIENT, "client")
    for number, max_tokens in ((1, 8), (2, 8), (3, 2000), (4, 8)):
        mesh.hear(CLIENT, make_submit(number, max_tokens=max_tokens))
    mesh.join(TARGET, "target", make_profile(max_streams=1, num_cells=200), incarnation=99)
    # Those that can be served do not wait behind it.
    first = CommitEntry(1, 2, 3, 1, 0, 0, "stop", b"!")
    assert opened(mesh.hear(TARGET, CommitReply(0.0, (first,), (9,)))) == [2]
    second = CommitEntry(2, 1, 3, 1, 0, 0, "stop", b"!")
    assert opened(mesh.hear(TARGET, CommitReply(0.0, (second,), (9,)))) == [4]
    mesh.hear(CLIENT, Bye("done"))
    assert mesh.state._serving.ledger.requests == {}
    assert len(mesh.state._serving.placement.waiting) == 0


def test_who_waits_for_a_kind_of_target_that_is_gone_blocks_nobody() -> None:
    mesh = Mesh()
    mesh.join(TARGET, "target", make_profile(model_hash="a", max_streams=1))
    mesh.join(CLIENT, "client")
    mesh.hear(CLIENT, make_submit(1))
    mesh.hear(CLIENT, make_submit(2))
    mesh.join(OTHER, "target", make_profile(model_hash="b"))
    assert opened(mesh.hear(TARGET, Bye("over")), OTHER) == []
    assert opened(mesh.hear(CLIENT, make_submit(3)), OTHER) == [3]
