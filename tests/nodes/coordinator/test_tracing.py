"""What is recorded of a mesh for those who ask."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airdraft.mesh.messages import Ping, Pong
from airdraft.nodes.coordinator.tracing import LINGER_S
from airdraft.nodes.messages import (
    ChainPart,
    GuessNotice,
    StreamFailedNotice,
    TraceReply,
    TraceRequest,
)
from airdraft.nodes.scheduler.planning import MODES
from airdraft.nodes.telemetry.trace.records import (
    FollowRecord,
    GuessRecord,
    PassStream,
    PlanRecord,
    Record,
    from_line,
)
from tests.nodes.builders import make_profile
from tests.nodes.coordinator.script import (
    CLIENT,
    DRAFT,
    OTHER,
    TARGET,
    Mesh,
    guessing_mesh,
    make_mesh,
    mesh_of,
    profile,
)


def ask(mesh: Mesh, after: int, now: float = 0.0, peer: bytes = CLIENT) -> TraceReply:
    (send,) = mesh.hear(peer, TraceRequest(1, after), now)
    assert send.peer == peer
    assert isinstance(send.message, TraceReply)
    return send.message


def records(reply: TraceReply) -> list[Any]:
    return [json.loads(line) for line in reply.records.splitlines()]


def kinds(reply: TraceReply) -> list[str]:
    return [record["kind"] for record in records(reply)]


def busy_mesh() -> Mesh:
    """One stream that a draft node follows, and a plan for it."""
    mesh = guessing_mesh()
    mesh.due(0.0)
    return mesh


def go_on(mesh: Mesh, position: int, now: float = 0.0) -> None:
    mesh.commit(1, position, pass_s=0.01, now=now)


def test_recording_begins_with_the_first_request_the_plan_in_force_and_who_follows() -> None:
    mesh = busy_mesh()
    go_on(mesh, 3)
    first = ask(mesh, -1)
    assert kinds(first) == ["plan", "follow"]
    plan, follow = records(first)
    assert (follow["stream_id"], follow["node"]) == (1, "draft")
    assert (plan["is_grouped"], plan["target"]) == (False, "target")
    assert [stream["draft"] for stream in plan["observation"]["streams"]] == ["draft"]
    go_on(mesh, 4)
    go_on(mesh, 5)
    second = ask(mesh, first.last)
    assert kinds(second) == ["pass", "pass"]
    assert (second.num_lost, second.has_more) == (0, False)
    assert records(ask(mesh, second.last)) == []


def test_recording_ends_when_nobody_asks() -> None:
    mesh = busy_mesh()
    last = ask(mesh, -1, 1.0).last
    mesh.tick(1.0 + LINGER_S)
    last = ask(mesh, last, 1.0 + LINGER_S).last
    go_on(mesh, 3, 1.5 + LINGER_S)
    before = ask(mesh, last, 1.5 + LINGER_S)
    assert kinds(before) == ["pass"]
    mesh.tick(2.0 + 2 * LINGER_S)
    go_on(mesh, 4, 2.0 + 2 * LINGER_S)
    # Nothing of it is left, but numbers go on.
    again = ask(mesh, before.last, 2.0 + 2 * LINGER_S)
    assert kinds(again) == ["plan", "follow"]
    assert again.last > before.last


def test_two_clients_are_told_the_same_each_from_its_own_beginning() -> None:
    mesh = busy_mesh()
    mesh.join(OTHER, "client")
    one = ask(mesh, -1)
    go_on(mesh, 3)
    two = ask(mesh, -1, 1.0, peer=OTHER)
    assert kinds(two) == ["plan", "follow"]
    go_on(mesh, 4)
    assert kinds(ask(mesh, two.last, peer=OTHER)) == ["pass"]
    assert kinds(ask(mesh, one.last)) == ["pass", "plan", "follow", "pass"]
    # Whoever begins again and again fills the ring with no plans.
    again = {ask(mesh, -1, 1.1 + number / 1e3).last for number in range(100)}
    assert len(again) == 1


def test_targets_that_join_later_are_recorded_too() -> None:
    mesh = busy_mesh()
    last = ask(mesh, -1).last
    mesh.join(OTHER, "target", make_profile(), name="second")
    for request_id in (2, 3):
        mesh.submit(request_id)
    mesh.ready(2, peer=OTHER)
    mesh.commit(2, peer=OTHER, pass_s=0.01)
    assert "second" in {record["target"] for record in records(ask(mesh, last))}


# -- what is in a record ---------------------------------------------------------------------------


def lines_of(mesh: Mesh, after: int = 0, now: float = 9.0) -> list[Record]:
    return [from_line(line) for line in ask(mesh, after, now).records.splitlines()]


def follows(mesh: Mesh) -> list[tuple[float, int, str, str]]:
    return [
        (record.at_s, record.stream_id, record.node, record.reason)
        for record in lines_of(mesh)
        if isinstance(record, FollowRecord)
    ]


def test_a_message_with_guesses_and_the_pass_that_took_some() -> None:
    mesh = mesh_of(target=profile(40))
    mesh.join(DRAFT, "draft", make_profile(0.8))
    (ping,) = mesh.due(1.0).said(Ping, TARGET)
    mesh.hear(TARGET, Pong(ping.seq, 0), 1.002)
    mesh.submit()
    for peer in (DRAFT, TARGET):
        mesh.ready(peer=peer)
    ask(mesh, -1)
    mesh.hear(DRAFT, GuessNotice((ChainPart(1, 1, 1, 3, b"1234"),), (5,) * 4), 2.0)
    told = {"num_offered": 4, "num_late": 1, "best_percent": 77}
    taken = {"num_draft_tokens": 3, "num_accepted_tokens": 1}
    mesh.commit(token_ids=(5, 6), pass_s=0.05, now=3.0, **told, **taken)
    _, message, verified = lines_of(mesh)
    assert message == GuessRecord(2.0, "target", "draft", 1, 4)
    assert (verified.at_s, verified.pass_s) == (3.0, 0.05)
    # A pass of four tokens by the tables.
    assert (verified.predicted_s, verified.rtt_s) == pytest.approx((0.064, 0.002))
    part = PassStream(1, 2, 3, 1, num_offered=4, num_late=1, best_percent=77)
    assert verified.streams == (part,)


def test_a_draft_node_follows_once_it_has_read_the_text() -> None:
    mesh = make_mesh(with_draft=True)
    ask(mesh, -1)
    mesh.submit()
    # What is of a following before is none.
    for generation, found in ((99, []), (1, [(2.0, 1, "draft", "")])):
        mesh.ready(1, generation, DRAFT)
        mesh.tick(2.0)
        assert follows(mesh) == found


@pytest.mark.parametrize("way", ["finish", "cancel", "move", "fail", "die"])
def test_a_recording_begins_with_the_draft_node_that_follows_and_tells_when_it_stops(
    way: str,
) -> None:
    mesh = guessing_mesh()
    ask(mesh, -1, 1.0)
    match way:
        case "finish":
            mesh.finish(now=3.0)
        case "cancel":
            mesh.cancel()
        case "move":
            mesh.join(OTHER, "target", make_profile())
            mesh.command("drain", "target")
        case "fail":
            mesh.hear(DRAFT, StreamFailedNotice(1, 1, "full"))
        case "die":
            mesh.gone(DRAFT)
    mesh.tick(3.0)
    first, last = follows(mesh)
    assert (first, last[:3]) == ((1.0, 1, "draft", ""), (3.0, 1, ""))
    assert ("full" in last[3]) == (way == "fail")


def test_a_target_that_comes_back_begins_without_followers() -> None:
    mesh = guessing_mesh()
    ask(mesh, -1, 1.0)
    mesh.gone(TARGET, 2.0)
    mesh.join(TARGET, "target", make_profile(), now=2.0, incarnation=9)
    mesh.tick(3.0)
    assert follows(mesh) == [(1.0, 1, "draft", "")]


def test_a_plan_is_told_with_what_open_flow_would_take() -> None:
    mesh = guessing_mesh(MODES["grouped"], gamma=4)
    ask(mesh, -1)
    mesh.tick(1.0)
    (plan,) = (record for record in lines_of(mesh, now=1.0) if isinstance(record, PlanRecord))
    assert (plan.at_s, plan.is_grouped) == (1.0, True)
    (target,) = mesh.state.roster.targets()
    scheduler = target.scheduler
    made = scheduler.last_result
    assert made is not None
    assert (plan.batches, plan.open_price_s) == (scheduler.plan.batches, made.open_s)
    assert plan.prediction is not None
    assert plan.prediction.price_s == made.grouped_s
    # Whoever begins later is told the same first.
    again = from_line(ask(mesh, -1, 2.0).records.splitlines()[0])
    assert isinstance(again, PlanRecord)
    assert (again.at_s, again.batches) == (2.0, plan.batches)
