"""The status document that a coordinator makes of what its members say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from airdraft.mesh.codec import encode
from airdraft.mesh.messages import Pong
from airdraft.mesh.padding import SIZES, pad
from airdraft.nodes.coordinator.requests.classes import STRANDED_LIMIT_S
from airdraft.nodes.coordinator.status.document import WINDOW_S, Recent
from airdraft.nodes.messages import (
    MAX_GAMMA,
    MAX_STATUS_BYTES,
    MAX_TRACE_BYTES,
    ChainPart,
    GuessNotice,
    LinkFields,
    StatusReply,
    StatusRequest,
    StreamParkedNotice,
    TraceReply,
    TraceRequest,
)
from airdraft.nodes.scheduler.planning import Mode
from airdraft.nodes.telemetry.counts import FATES, PLAIN_TEXTS, STAGES, TOKEN_KINDS
from airdraft.nodes.telemetry.status import NodeStatus, Status, StreamStatus, decode_status
from airdraft.policies.plan import Batch, BatchTimes, Observation, Plan, Prediction
from tests.nodes.builders import make_profile, make_submit
from tests.nodes.coordinator.script import (
    CLIENT,
    CLUSTER,
    DRAFT,
    EPOCH,
    OTHER,
    TARGET,
    Mesh,
    guessing_mesh,
    make_mesh,
    mesh_of,
)

CANARY = (41_417, 42_428, 43_439)


def plain_mesh() -> Mesh:
    """One stream that is decoded plainly; its tokens are canaries."""
    mesh = make_mesh(num_vocab=50_000)
    mesh.submit(prompt_token_ids=CANARY, max_tokens=100)
    mesh.ready()
    return mesh


def go_on(mesh: Mesh, position: int, now: float = 0.0) -> None:
    mesh.commit(1, position, text=b"canary", token_ids=CANARY[:1], pass_s=0.01, now=now)


def data(mesh: Mesh, now: float = 0.0) -> bytes:
    (reply,) = mesh.hear(CLIENT, StatusRequest(9), now).said(StatusReply, CLIENT)
    assert reply.request_id == 9
    return bytes(reply.status)


def ask(mesh: Mesh, now: float = 0.0) -> Status:
    return decode_status(data(mesh, now))


def node(status: Status, name: bytes) -> NodeStatus:
    return next(found for found in status.nodes if found.name == name.decode())


def only_stream(status: Status) -> StreamStatus:
    (stream,) = status.streams
    return stream


def test_a_target_that_did_nothing_yet_has_every_counter_and_no_prices() -> None:
    (target,) = ask(make_mesh()).targets
    counts, plan, observed = target.counts, target.plan, target.observed
    assert set(counts.tokens) == set(TOKEN_KINDS)
    assert set(counts.plain_steps) == set(PLAIN_TEXTS)
    assert set(counts.guesses) == set(FATES)
    assert len(counts.made) == len(counts.judged) == len(counts.accepted) == MAX_GAMMA
    assert len(counts.gammas) == MAX_GAMMA + 1
    assert (plan.policy, plan.groups) == ("flow", ())
    assert (plan.open_price_s, plan.grouped_price_s) == (0.0, 0.0)
    assert set(observed.errors) == set(STAGES)
    assert (observed.tokens_per_s, observed.passes_per_s, observed.price_s) == (0.0, 0.0, 0.0)


def test_nodes_are_told_with_what_is_known_of_them() -> None:
    mesh = make_mesh(with_draft=True, exact=True, num_cells=500, engine="e" * 100)
    profile = replace(make_profile(0.8), link=LinkFields("cell-a", 200e3, 0.001))
    mesh.join(OTHER, "draft", profile)
    status = ask(mesh)
    target = node(status, TARGET)
    assert (target.role, target.exact, target.state, target.num_cells) == (
        *("target", True, "ok"),
        500,
    )
    # Long names are cut.
    assert target.engine == "e" * 64
    assert (node(status, DRAFT).rate_is, node(status, DRAFT).rate_bps) == ("unknown", None)
    other = node(status, OTHER)
    assert (other.rate_is, other.rate_bps, other.medium) == ("declared", 200e3, "cell-a")


def test_nodes_fall_silent_leave_and_come_back() -> None:
    mesh = make_mesh(with_draft=True)
    mesh.due(0.0)
    mesh.tick(3.0, DRAFT)
    silent = node(ask(mesh, 3.0), DRAFT)
    assert (silent.state, silent.silent_s) == ("silent", 3.0)
    mesh.bye(DRAFT, 4.0)
    left = node(ask(mesh, 6.0), DRAFT)
    assert (left.state, left.reason, left.silent_s) == ("left", "said bye: over", 2.0)
    assert left.used_cells == left.num_streams == 0
    mesh.join(DRAFT, "draft", make_profile(0.8))
    status = ask(mesh, 7.0)
    assert [found.name for found in status.nodes].count("draft") == 1
    mesh.bye(DRAFT, 8.0)
    assert "draft" not in {found.name for found in ask(mesh, 309.0).nodes}


def test_a_stream_is_followed_through_its_phases(mesh: Mesh) -> None:
    mesh.submit(max_tokens=100)
    reading = only_stream(ask(mesh))
    assert (reading.phase, reading.target) == ("reading", "target")
    assert (reading.num_tokens, reading.max_tokens) == (0, 100)
    mesh.ready(now=1.0)
    go_on(mesh, 3, 1.0)
    decoding = only_stream(ask(mesh, 1.0))
    assert (decoding.phase, decoding.num_tokens, decoding.gamma) == ("decoding", 1, 0)
    assert decoding.plain == "no_draft"
    assert "(there is no draft node)" in decoding.reason
    mesh.hear(TARGET, StreamParkedNotice(1, 1), 2.0)
    assert only_stream(ask(mesh, 2.0)).phase == "parked"
    mesh.ready(1, 2, now=3.0)
    assert only_stream(ask(mesh, 3.0)).phase == "decoding"


def test_the_status_counts_all_streams_by_phase_and_shows_the_first_of_them() -> None:
    mesh = mesh_of(**{f"t{n}": make_profile(max_streams=256, num_cells=10**6) for n in range(3)})
    for number in range(1, 12):
        mesh.submit(number, num_choices=64)
    status = mesh.status()
    assert status.phases == {"reading": 704, "decoding": 0, "parked": 0}
    assert len(status.streams) < status.num_streams == 704
    (name,) = {stream.target for stream in status.streams if stream.stream_id == 1}
    mesh.ready(1, peer=name.encode())
    assert mesh.status(9.0).phases == {"reading": 703, "decoding": 1, "parked": 0}


def test_streams_without_a_place_are_counted_as_waiting() -> None:
    mesh = make_mesh(max_streams=1)
    for number in range(3):
        mesh.submit(number, float(number))
    status = ask(mesh, 4.0)
    assert status.waiting.num_streams == 2
    assert [s.phase for s in status.streams] == ["reading", "waiting", "waiting"]
    assert status.num_streams == 3
    mesh.commit(now=60.0)
    mesh.cancel(1, 60.0)
    mesh.cancel(2, 60.0)
    mesh.gone(TARGET, 61.0)
    status = ask(mesh, 63.0)
    assert status.waiting.num_streams == 1
    assert node(status, TARGET).used_cells == 0


def test_rates_are_of_the_last_seconds() -> None:
    mesh = plain_mesh()
    position = 3
    for second in range(4):
        mesh.tick(float(second))
        for _ in range(5):
            go_on(mesh, position, second + 0.5)
            position += 1
    status = ask(mesh, 4.0)
    (target,) = status.targets
    assert target.observed.tokens_per_s == pytest.approx(5.0)
    assert target.observed.passes_per_s == pytest.approx(5.0)
    assert only_stream(status).tokens_per_s == pytest.approx(5.0)
    # Passes of 0.01 s.
    assert node(status, TARGET).busy == pytest.approx(0.05)
    assert (target.counts.num_passes, target.counts.tokens["plain"]) == (20, 20)
    assert target.counts.plain_steps["no_draft"] == 20
    assert [span.stage for span in target.spans] == ["pass"] * 20
    assert status.uptime_s == 4.0
    # Spans are of the last ten seconds.
    assert {span.end_s for span in ask(mesh, 13.0).targets[0].spans} == {3.5}


def test_a_node_that_came_back_is_busy_from_its_return_on() -> None:
    mesh = plain_mesh()
    for second in range(4):
        mesh.tick(float(second))
        mesh.commit(1, 3 + second, pass_s=0.9, now=second + 0.5)
    mesh.gone(TARGET, 4.0)
    mesh.join(TARGET, "target", make_profile(num_vocab=50_000), now=4.0)
    mesh.ready(1, 2, now=4.0)
    mesh.tick(4.5)
    mesh.commit(1, 7, generation=2, pass_s=0.9, now=5.0)
    assert node(ask(mesh, 5.5), TARGET).busy == pytest.approx(0.9)


def test_a_rate_is_over_what_was_kept_lately() -> None:
    recent = Recent()
    assert recent.rate("x", 5.0, 1.0) == recent.rate("x", 5.0, 0.0) == 0.0
    # A total that grows by 3 a second.
    for second in range(101):
        recent.keep({"x": 3.0 * second}, float(second))
    assert recent.rate("x", 330.0, 100.5) == pytest.approx(60.0 / WINDOW_S, rel=0.1)
    # What is new, what began anew, and what was last kept long ago has no rate.
    assert recent.rate("y", 5.0, 101.0) == recent.rate("x", 0.0, 101.0) == 0.0
    assert recent.rate("x", 1000.0, 160.0) == 0.0


def test_what_draft_nodes_did_and_what_became_of_it() -> None:
    mesh = guessing_mesh()
    part = ChainPart(1, 1, 1, 3, bytes([200, 150]))
    mesh.hear(DRAFT, GuessNotice((part,), (8, 9), draft_us=250_000), 0.5)
    told = {"num_compared": 2, "num_right": 1, "num_offered": 2, "best_percent": 78}
    guesses = {"num_draft_tokens": 2, "num_accepted_tokens": 1, **told}
    mesh.commit(token_ids=(8, 7), pass_s=0.01, now=0.75, **guesses)
    status = ask(mesh, 1.0)
    stream, (target,) = only_stream(status), status.targets
    assert (stream.gamma, stream.draft) == (2, "draft")
    assert (stream.plain, stream.reason) == ("", "")
    assert (stream.num_draft_tokens, stream.num_accepted_tokens) == (2, 1)
    draft = node(status, DRAFT)
    assert draft.num_streams == 1
    assert [span.stage for span in target.spans] == ["guesses", "pass"]
    assert target.counts.guesses == dict.fromkeys(FATES, 0) | {"taken": 2}


def together(_: Observation) -> Plan:
    """A policy that computes with numbers of numpy."""
    times = BatchTimes(0.01, 0.002, 0.03, 0.042, np.int64(5))  # type: ignore[arg-type]
    batch = Batch((np.int64(1),), (np.int64(4),))  # type: ignore[arg-type]
    made = Prediction(0.05, "target", 0.1, 50.0, (times,))
    return Plan((batch,), policy="joint", prediction=made)


@pytest.mark.parametrize("is_grouped", [True, False])
def test_the_plan_in_force_is_told_with_the_prices_of_both_ways(is_grouped: bool) -> None:
    mesh = guessing_mesh(Mode(together, is_grouped=is_grouped), gamma=4)
    for number in range(3):
        go_on(mesh, 3 + number, number / 4)
    mesh.tick(1.0)
    (target,) = ask(mesh, 1.0).targets
    plan, observed = target.plan, target.observed
    assert plan.grouped_price_s == 0.1
    assert plan.open_price_s > 0.0
    # A token every quarter of a second.
    assert observed.price_s == pytest.approx(0.25)
    assert observed.errors["plan"].num_seen > 0
    if is_grouped:
        assert (plan.policy, plan.groups, plan.bound) == ("joint", ((4,),), "target")
    else:
        assert (plan.policy, plan.groups, plan.bound) == ("flow", (), "")


def test_bytes_are_counted_by_node_and_by_kind(mesh: Mesh) -> None:
    for send in mesh.hear(CLIENT, make_submit(1), num_bytes=300):
        mesh.state.sent(send, 1000, 0.0)
    mesh.commit(7, num_bytes=40)
    mesh.hear(TARGET, Pong(0, 0), num_bytes=20)
    status = ask(mesh)
    target = node(status, TARGET)
    # With the answer to its probe.
    assert (target.bytes_in, target.bytes_out) == (70, 1000)
    wire = {(w.kind, w.direction): (w.num_messages, w.num_bytes) for w in status.totals.wire}
    assert wire["SubmitRequest", "in"] == (1, 300)
    assert wire["OpenStreamRequest", "out"] == (1, 1000)
    assert wire["StartedNotice", "out"] == (1, 1000)


def test_every_request_ends_as_one_thing() -> None:
    mesh = make_mesh(max_streams=2)
    mesh.join(OTHER, "client")
    mesh.submit(1, num_choices=2)
    mesh.ready(1)
    mesh.ready(2)
    mesh.finish(1)
    assert ask(mesh, 1.0).totals.requests["done"] == 0
    mesh.finish(2)
    mesh.submit(2, num_choices=4)
    mesh.cancel(2)
    mesh.submit(3, temperature=-1.0)
    mesh.submit(4, max_tokens=1 << 19)
    mesh.submit(1, peer=OTHER)
    mesh.bye(OTHER)
    mesh.submit(5)
    mesh.bye(TARGET)
    # So late that the target is not expected back.
    mesh.submit(6, STRANDED_LIMIT_S)
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
    mesh = plain_mesh()
    go_on(mesh, 3)
    go_on(mesh, 3)
    stale = ask(mesh).totals.num_stale
    mesh.bye(TARGET, 1.0)
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
    mesh = Mesh(version="1.2.3")
    mesh.join(CLIENT, "client")
    first = data(mesh, 1.0)
    assert data(mesh, 1.1) is first
    assert data(mesh, 1.6) is not first
    status = decode_status(first)
    assert (status.cluster, status.epoch, status.version) == (CLUSTER, str(EPOCH), "1.2.3")
    assert (status.nodes, status.streams, status.targets) == ((), (), ())


LARGEST = [
    StatusReply(2**63 - 1, b"x" * MAX_STATUS_BYTES),
    TraceReply(2**63 - 1, 2**63 - 1, 2**63 - 1, True, b"x" * MAX_TRACE_BYTES),
]


@pytest.mark.parametrize("reply", LARGEST, ids=lambda reply: type(reply).__name__)
def test_the_largest_reply_fits_a_message_even_a_padded_one(reply: Any) -> None:
    (frame,) = pad(encode(reply, cluster="c" * 64, epoch=2**63 - 1))
    assert len(frame) in SIZES


def test_no_status_and_no_record_holds_tokens_texts_or_names_of_who_asks() -> None:
    mesh = make_mesh(num_vocab=50_000)
    asked = {"prompt_token_ids": CANARY, "max_tokens": 100}
    mesh.submit(1, user="canary-user", **asked)
    mesh.ready()
    (began,) = mesh.hear(CLIENT, TraceRequest(1, -1)).said(TraceReply)
    go_on(mesh, 3)
    (recorded,) = mesh.hear(CLIENT, TraceRequest(1, began.last)).said(TraceReply)
    assert b'"kind":"pass"' in recorded.records
    status = data(mesh)
    stream = only_stream(decode_status(status))
    assert stream.client.startswith("c-")
    assert stream.user.startswith("u-")
    for canary in (*map(str, CANARY), "canary", CLIENT.hex()):
        assert canary.encode() not in status + began.records + recorded.records
    # The same user is recognised, another is not taken for it.
    mesh.submit(2, user="canary-user", **asked)
    mesh.submit(3, user="other", **asked)
    users = [s.user for s in ask(mesh, 5.0).streams]
    assert users[0] == users[1] != users[2]


def test_nothing_a_peer_says_makes_a_status_that_is_no_json() -> None:
    mesh = plain_mesh()
    mesh.due(0.0)
    for position, pass_s in enumerate((86_400.0, 86_400.0, 0.0), 3):
        mesh.commit(1, position, pass_s=pass_s, now=0.5)
    status = ask(mesh, 1.0)
    assert node(status, TARGET).busy == 1.0
    # A reply of no seconds is of no pass.
    assert status.targets[0].counts.num_passes == 2
