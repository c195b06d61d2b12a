"""The status document of a coordinator whose members say what the tests make them say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.codec import encode
from mesh.messages import Bye, Ping
from mesh.padding import SIZES, pad
from nodes.coordinator.placing.stranded import STRANDED_LIMIT_S
from nodes.messages import (
    MAX_STATUS_BYTES,
    CancelRequest,
    CommitEntry,
    CommitReply,
    DraftReply,
    DraftRequest,
    LinkFields,
    StatusReply,
    StatusRequest,
    StreamParkedNotice,
    StreamReadyNotice,
)
from nodes.status import NodeStatus, Status, StreamStatus, decode_status
from tests.nodes.builders import make_profile, make_submit
from tests.nodes.coordinator.script import (
    CLIENT,
    CLUSTER,
    DRAFT,
    EPOCH,
    OTHER,
    TARGET,
    Mesh,
    finish,
    make_mesh,
    to,
)
from tests.nodes.coordinator.test_tracing import CANARY, busy_mesh, go_on


def data(mesh: Mesh, now: float = 0.0) -> bytes:
    (send,) = mesh.hear(CLIENT, StatusRequest(9), now)
    assert send.peer == CLIENT
    assert isinstance(send.message, StatusReply)
    assert send.message.request_id == 9
    return send.message.status


def ask(mesh: Mesh, now: float = 0.0) -> Status:
    return decode_status(data(mesh, now))


def node(status: Status, name: bytes) -> NodeStatus:
    return next(found for found in status.nodes if found.name == name.decode())


def only_stream(status: Status) -> StreamStatus:
    (stream,) = status.streams
    return stream


def live(mesh: Mesh, now: float, *peers: bytes) -> None:
    """A second passes, of which these are heard."""
    for peer in peers:
        mesh.hear(peer, Ping(1, 1), now)
    mesh.state.tick(now)


def test_an_empty_mesh_has_a_status() -> None:
    mesh = Mesh(version="1.2.3")
    mesh.join(CLIENT, "client")
    status = ask(mesh)
    assert (status.cluster, status.epoch, status.version) == (CLUSTER, str(EPOCH), "1.2.3")
    assert (status.nodes, status.streams, status.targets) == ((), (), ())
    assert set(status.totals.requests.values()) == {0}


def test_nodes_are_told_with_what_is_known_of_them() -> None:
    mesh = make_mesh(with_draft=True, exact=True, num_cells=500)
    profile = replace(make_profile(0.8), link=LinkFields("cell-a", 200e3, 0.001))
    mesh.join(OTHER, "draft", profile)
    status = ask(mesh)
    target = node(status, TARGET)
    assert (target.role, target.exact, target.state, target.num_cells) == (
        *("target", True, "ok"),
        500,
    )
    assert target.costs[0].calibrated_s == pytest.approx(target.costs[0].now_s)
    assert target.costs[0].num_tokens == 1
    assert (node(status, DRAFT).rate_is, node(status, DRAFT).rate_bps) == ("unknown", None)
    other = node(status, OTHER)
    assert (other.rate_is, other.rate_bps, other.medium) == ("declared", 200e3, "cell-a")


def test_nodes_fall_silent_leave_and_come_back() -> None:
    mesh = make_mesh(with_draft=True)
    mesh.state.tick(0.0)
    live(mesh, 3.0, TARGET, CLIENT)
    silent = node(ask(mesh, 3.0), DRAFT)
    assert (silent.state, silent.silent_s) == ("silent", 3.0)
    mesh.hear(DRAFT, Bye("done"), 4.0)
    left = node(ask(mesh, 6.0), DRAFT)
    assert (left.state, left.reason, left.silent_s) == ("left", "said bye: done", 2.0)
    assert left.used_cells == left.num_streams == 0
    mesh.join(DRAFT, "draft", make_profile(0.8))
    status = ask(mesh, 7.0)
    assert [found.name for found in status.nodes].count("draft") == 1
    mesh.hear(DRAFT, Bye("done"), 8.0)
    assert "draft" not in {found.name for found in ask(mesh, 309.0).nodes}


def test_a_stream_is_followed_through_its_phases() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit(1, max_tokens=100, priority=7))
    reading = only_stream(ask(mesh))
    assert (reading.phase, reading.target, reading.priority) == ("reading", "target", 7)
    assert (reading.num_prompt_tokens, reading.num_tokens, reading.max_tokens) == (3, 0, 100)
    mesh.hear(TARGET, StreamReadyNotice(1, 1), 1.0)
    go_on(mesh, 3, 1.0)
    decoding = only_stream(ask(mesh, 1.0))
    assert (decoding.phase, decoding.num_tokens, decoding.gamma) == ("decoding", 1, 0)
    assert decoding.plain == "no_draft"
    mesh.hear(TARGET, StreamParkedNotice(1, 1), 2.0)
    assert only_stream(ask(mesh, 2.0)).phase == "parked"
    mesh.hear(TARGET, StreamReadyNotice(1, 2), 3.0)
    assert only_stream(ask(mesh, 3.0)).phase == "decoding"


def test_who_waits_is_told_by_priority() -> None:
    mesh = make_mesh(max_streams=1)
    for number, priority in enumerate((5, 5, 2)):
        mesh.hear(CLIENT, make_submit(number, priority=priority), float(number))
    status = ask(mesh, 4.0)
    assert status.waiting.by_priority == {"5": 1, "2": 1}
    assert (status.waiting.num_streams, status.waiting.oldest_s) == (2, 3.0)
    assert [s.phase for s in status.streams] == ["reading", "waiting", "waiting"]
    assert status.num_streams == 3


def test_rates_are_of_the_last_seconds() -> None:
    mesh = busy_mesh()
    position = 3
    for second in range(4):
        live(mesh, float(second), TARGET, CLIENT)
        for _ in range(5):
            go_on(mesh, position, second + 0.5)
            position += 1
    status = ask(mesh, 4.0)
    (target,) = status.targets
    assert target.observed is not None
    assert target.observed.tokens_per_s == pytest.approx(5.0)
    assert target.observed.passes_per_s == pytest.approx(5.0)
    assert only_stream(status).tokens_per_s == pytest.approx(5.0)
    # Passes of 0.01 s.
    assert node(status, TARGET).busy == pytest.approx(0.05)
    assert node(status, TARGET).busy_s == pytest.approx(0.2)
    assert (target.counts.num_passes, target.counts.tokens["plain"]) == (20, 20)
    assert target.counts.plain_steps["no_draft"] == 20
    assert [span.stage for span in target.spans] == ["pass"] * 20
    assert status.uptime_s == 4.0


def test_the_plan_in_force_and_what_draft_nodes_did() -> None:
    mesh = make_mesh(with_draft=True)
    sends = mesh.hear(CLIENT, make_submit(1, max_tokens=100))
    sends += mesh.hear(DRAFT, StreamReadyNotice(1, 1))
    sends += mesh.hear(TARGET, StreamReadyNotice(1, 1))
    (request,) = (m for m in to(DRAFT, sends) if isinstance(m, DraftRequest))
    mesh.hear(DRAFT, DraftReply(request.round, (), (), draft_us=250_000), 0.5)
    status = ask(mesh, 1.0)
    (target,) = status.targets
    assert target.plan is not None
    assert target.plan.batches[0].stream_ids == (1,)
    assert target.plan.batches[0].gammas == (4,)
    assert (only_stream(status).gamma, only_stream(status).draft) == (4, "draft")
    assert (only_stream(status).plain, only_stream(status).reason) == ("", "")
    draft = node(status, DRAFT)
    assert (draft.busy_s, draft.num_streams) == (0.25, 1)
    (span,) = target.spans
    assert (span.node, span.batch) == ("draft", 1)
    assert span.end_s - span.start_s == pytest.approx(0.25)


def test_bytes_are_counted_by_node_and_by_kind() -> None:
    mesh = make_mesh()
    for send in mesh.hear(CLIENT, make_submit(1), num_bytes=300):
        mesh.state.sent(send, 1000, 0.0)
    mesh.hear(TARGET, StreamReadyNotice(1, 1), num_bytes=40)
    status = ask(mesh)
    target = node(status, TARGET)
    # With the answer to its probe.
    assert (target.bytes_in, target.bytes_out) == (50, 1000)
    wire = {(w.kind, w.direction): (w.num_messages, w.num_bytes) for w in status.totals.wire}
    assert wire["SubmitRequest", "in"] == (1, 300)
    assert wire["OpenStreamRequest", "out"] == (1, 1000)
    assert wire["StartedNotice", "out"] == (1, 1000)


def test_every_request_ends_as_one_thing() -> None:
    mesh = make_mesh(max_streams=2)
    mesh.join(OTHER, "client")
    mesh.hear(CLIENT, make_submit(1, num_choices=2))
    mesh.hear(TARGET, StreamReadyNotice(1, 1))
    mesh.hear(TARGET, StreamReadyNotice(2, 1))
    mesh.hear(TARGET, finish(1))
    assert ask(mesh, 1.0).totals.requests["done"] == 0
    mesh.hear(TARGET, finish(2))
    mesh.hear(CLIENT, make_submit(2, num_choices=4))
    mesh.hear(CLIENT, CancelRequest(2))
    mesh.hear(CLIENT, make_submit(3, temperature=-1.0))
    mesh.hear(CLIENT, make_submit(4, max_tokens=1 << 19))
    mesh.hear(OTHER, make_submit(1))
    mesh.hear(OTHER, Bye("gone"))
    mesh.hear(CLIENT, make_submit(5))
    mesh.hear(TARGET, Bye("gone"))
    # So late that the target is not expected back.
    mesh.hear(CLIENT, make_submit(6), STRANDED_LIMIT_S)
    found = ask(mesh, STRANDED_LIMIT_S).totals
    assert {name: count for name, count in found.requests.items() if count} == {
        "done": 1,
        "cancelled": 1,
        "bad_request": 2,
        "left": 1,
        "unavailable": 1,
    }
    # The fifth waits for another target.
    assert found.num_submitted == 7


def test_counts_of_a_target_outlive_it() -> None:
    mesh = busy_mesh()
    go_on(mesh, 3)
    go_on(mesh, 3)
    stale = ask(mesh).totals.num_stale
    mesh.hear(TARGET, Bye("gone"), 1.0)
    status = ask(mesh, 1.0)
    (target,) = status.targets
    assert (target.plan, target.observed) == (None, None)
    assert target.counts.tokens["plain"] == 1
    assert status.totals.num_stale == stale > 0
    mesh.join(TARGET, "target", make_profile(num_vocab=50_000))
    (target,) = ask(mesh, 2.0).targets
    assert target.plan is not None
    assert target.counts.tokens["plain"] == 1


def test_the_document_is_not_made_anew_for_each_who_asks() -> None:
    mesh = busy_mesh()
    first = data(mesh, 1.0)
    assert data(mesh, 1.1) is first
    assert data(mesh, 1.6) is not first


def test_no_status_holds_tokens_texts_or_names_of_who_asks() -> None:
    mesh = make_mesh(num_vocab=50_000)
    submit = make_submit(1, prompt_token_ids=CANARY, max_tokens=100, user="canary-user")
    mesh.hear(CLIENT, submit)
    mesh.hear(TARGET, StreamReadyNotice(1, 1))
    go_on(mesh, 3)
    text = data(mesh)
    stream = only_stream(decode_status(text))
    assert stream.client.startswith("c-")
    assert stream.user.startswith("u-")
    for canary in (*map(str, CANARY), "canary", CLIENT.hex()):
        assert canary.encode() not in text
    # The same user is recognised, another is not taken for it.
    mesh.hear(CLIENT, replace(submit, request_id=2))
    mesh.hear(CLIENT, replace(submit, request_id=3, user="other"))
    users = [s.user for s in ask(mesh, 5.0).streams]
    assert users[0] == users[1] != users[2]


def test_the_largest_status_fits_a_message_even_a_padded_one() -> None:
    reply = StatusReply(2**63 - 1, b"x" * MAX_STATUS_BYTES)
    (frame,) = pad(encode(reply, cluster="c" * 64, epoch=2**63 - 1))
    assert len(frame) in SIZES


def test_nothing_a_peer_says_makes_a_status_that_is_no_json() -> None:
    mesh = busy_mesh()
    mesh.state.tick(0.0)
    for position, pass_s in enumerate((1e308, 1e308, -1e308), 3):
        entry = CommitEntry(1, 1, position, 1, 0, 0, "", b"x")
        mesh.hear(TARGET, CommitReply(pass_s, (entry,), (9,)), 0.5)
    status = ask(mesh, 1.0)
    assert node(status, TARGET).busy == 1.0
    assert status.targets[0].counts.num_passes == 3
