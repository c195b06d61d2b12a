"""Who counts as gone, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from mesh.codec import decode, encode, encode_struct
from mesh.messages import PROTOCOL_VERSION, Hello, Pong
from nodes.coordinator.members.record import PROGRESS_TIMEOUT_S
from nodes.coordinator.members.roster import NodeOut, Roster, RosterEvent
from nodes.messages import EngineProfile, NodesReply
from nodes.scheduler import Scheduler
from nodes.scheduler.drafts import Drafts
from tests.nodes.builders import make_profile, make_spec
from tests.nodes.pure_mesh import TARGET_COSTS

PEER, OTHER = b"peer", b"other"


def hello(profile: EngineProfile | None = None, incarnation: int = 1) -> Hello:
    data = encode_struct(profile or make_profile())
    return Hello("node", "target", incarnation, PROTOCOL_VERSION, data)


def make_roster(profile: EngineProfile | None = None, *, is_busy: bool = True) -> Roster:
    roster = Roster(0.5, 5.0)
    roster.hello(PEER, hello(profile), 0.0)
    node = roster.node("node")
    assert node is not None
    node.scheduler = Scheduler(TARGET_COSTS, Drafts())
    if is_busy:
        node.scheduler.admit(make_spec(), None)
    return roster


def left(events: Sequence[RosterEvent]) -> list[NodeOut]:
    return [event for event in events if isinstance(event, NodeOut)]


def seconds_until_gone(roster: Roster, most_s: int = 2000) -> tuple[int, str]:
    """Of a node that answers, but does nothing."""
    for second in range(1, most_s):
        member = roster._membership.by_peer(PEER)
        assert member is not None
        roster.pong(member, Pong(0, 7), float(second))
        out = left(roster.tick(float(second)))
        if out:
            assert out[0].has_died
            assert out[0].last_seen == second
            return second, out[0].reason
    return most_s, ""


def test_a_target_that_is_asked_for_something_and_does_nothing_is_gone() -> None:
    second, reason = seconds_until_gone(make_roster())
    assert PROGRESS_TIMEOUT_S < second <= PROGRESS_TIMEOUT_S + 3
    assert reason == f"no progress for {second - 1:.1f} s"


def test_who_has_nothing_to_do_need_not_do_anything() -> None:
    assert seconds_until_gone(make_roster(is_busy=False), 200) == (200, "")


def test_a_target_whose_passes_take_long_is_given_the_time() -> None:
    slow = make_profile()
    seconds = (*slow.prefill.seconds[:-1], 20.0)
    slow = replace(slow, prefill=replace(slow.prefill, seconds=seconds))
    second, _ = seconds_until_gone(make_roster(slow))
    assert second > 8 * 20


@pytest.mark.parametrize(
    ("how", "has_died"),
    [("gone", True), ("silent", True), ("bye", False), ("dismissed", False)],
)
def test_who_is_told_to_go_or_says_so_has_not_died(how: str, has_died: bool) -> None:
    roster = make_roster()
    node = roster.node("node")
    assert node is not None
    roster.message(PEER, 3.0)
    match how:
        case "gone":
            events = roster.gone(PEER, 4.0)
        case "silent":
            events = roster.tick(9.0)
        case "bye":
            events = roster.bye(PEER, "over", 4.0)
        case _:
            events = roster.dismiss(node, "drained", 4.0)
    (out,) = left(events)
    assert (out.record, out.has_died, out.last_seen) == (node, has_died, 3.0)


@pytest.mark.parametrize(("incarnation", "has_died"), [(1, False), (2, True)])
def test_a_process_that_comes_back_has_not_died_and_one_that_follows_it_tells_that_it_has(
    incarnation: int, has_died: bool
) -> None:
    roster = make_roster()
    (out,) = left(roster.hello(OTHER, hello(incarnation=incarnation), 1.0))
    assert out.has_died == has_died


def test_of_more_nodes_than_are_shown_those_that_drain_come_first() -> None:
    roster = Roster(0.5, 5.0)
    for k in range(70):
        roster.hello(b"%d" % k, replace(hello(), node=f"node-{k}"), 0.0)
    assert [n.node for n in roster.fields()] == [f"node-{k}" for k in range(64)]
    last = roster.node("node-69")
    assert last is not None
    last.is_draining = True
    # Who drains a node waits for it to be gone from here.
    assert [n.node for n in roster.fields()] == ["node-69", *(f"node-{k}" for k in range(63))]


def test_as_many_nodes_as_are_shown_fit_into_one_message_whatever_they_are_called() -> None:
    roster = Roster(0.5, 5.0)
    name = "\N{GRINNING FACE}" * 256
    profile = make_profile(model=name, model_hash=name, numerics_class=name)
    for k in range(70):
        said = replace(hello(), profile=encode_struct(profile), node=f"{k:02}{name[:62]}")
        roster.hello(b"%d" % k, said, 0.0)
    fields = roster.fields()
    assert len(fields) == 64
    assert decode(encode(NodesReply(1, fields))).message == NodesReply(1, fields)
