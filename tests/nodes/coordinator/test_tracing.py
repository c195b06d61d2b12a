from __future__ import annotations

import json
from typing import Any

from nodes.coordinator.tracing import LINGER_S
from nodes.messages import MAX_TRACE_BYTES, TraceReply, TraceRequest
from tests.nodes.builders import make_profile
from tests.nodes.coordinator.script import CLIENT, DRAFT, OTHER, TARGET, Mesh, make_mesh

CANARY = (41_417, 42_428, 43_439)


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
    """One stream that a draft node follows, and a plan for it; its tokens are canaries."""
    mesh = make_mesh(num_vocab=50_000)
    mesh.join(DRAFT, "draft", make_profile(0.8, num_vocab=50_000))
    mesh.submit(prompt_token_ids=CANARY, max_tokens=100)
    for peer in (DRAFT, TARGET):
        mesh.ready(peer=peer)
    mesh.due(0.0)
    return mesh


def go_on(mesh: Mesh, position: int, now: float = 0.0) -> None:
    mesh.commit(1, position, text=b"canary", token_ids=CANARY[:1], pass_s=0.01, now=now)


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


def test_no_record_holds_tokens_texts_or_owners() -> None:
    mesh = busy_mesh()
    found = ask(mesh, -1)
    text = found.records
    for position in range(3, 50):
        go_on(mesh, position)
    text += ask(mesh, found.last).records
    assert b'"kind":"pass"' in text
    for canary in (*map(str, CANARY), "canary", CLIENT.hex()):
        assert canary.encode() not in text


def test_long_traces_come_in_parts() -> None:
    mesh = busy_mesh()
    reply = ask(mesh, -1)
    last = reply.last
    for position in range(3, 95):
        go_on(mesh, position)
        for _ in range(10):
            # Repeated ones commit nothing, but are passes.
            go_on(mesh, position)
    parts = [ask(mesh, last)]
    while parts[-1].has_more:
        parts.append(ask(mesh, parts[-1].last))
    assert len(parts) > 1
    assert all(len(part.records) <= MAX_TRACE_BYTES for part in parts)
    numbers = [record["number"] for part in parts for record in records(part)]
    assert numbers == list(range(last + 1, parts[-1].last + 1))
