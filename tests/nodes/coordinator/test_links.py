"""What the coordinator knows of its links: declared, or measured by what it sends anyway."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from mesh.codec import encode_struct
from mesh.messages import PROTOCOL_VERSION, Hello, Ping, Pong, Refuse
from nodes.coordinator.members.record import NodeRecord
from nodes.coordinator.members.roster import Roster
from nodes.coordinator.state import Send
from nodes.messages import CloseStreamNotice, EngineProfile, LinkFields
from nodes.scheduler.instructions import open_request
from policies.plan import Link
from tests.nodes.builders import make_profile, make_spec
from tests.nodes.coordinator.script import DRAFT, Mesh, make_mesh

RTT_S = 0.02


def joined(profile: EngineProfile) -> tuple[Mesh, NodeRecord]:
    """A draft node whose round trip has been measured."""
    mesh = make_mesh()
    mesh.join(DRAFT, "draft", profile)
    pings = [s.message for s in mesh.state.tick(1.0) if s.peer == DRAFT]
    (ping,) = (message for message in pings if isinstance(message, Ping))
    mesh.hear(DRAFT, Pong(ping.seq, 0), 1.0 + RTT_S)
    record = mesh.state._roster.node(DRAFT.decode())
    assert record is not None
    return mesh, record


def sent(mesh: Mesh, num_bytes: int, now: float) -> list[Send]:
    return mesh.state.sent(Send(DRAFT, CloseStreamNotice(1, 1)), num_bytes, now)


def test_the_rate_is_that_of_large_messages() -> None:
    mesh, record = joined(make_profile(0.8))
    assert record.measured_link().rtt_s == pytest.approx(RTT_S)
    assert record.measured_link().rate_bps == float("inf")
    assert sent(mesh, 100, 2.0) == []
    (ping,) = sent(mesh, 4000, 2.0)
    assert isinstance(ping.message, Ping)
    mesh.hear(DRAFT, Pong(ping.message.seq, 0), 2.0 + RTT_S + 8 * 4000 / 100e3)
    assert record.measured_link().rate_bps == pytest.approx(100e3)
    # Of its round trip 17.8 ms were Ping and Pong themselves: messages are charged for their own.
    assert record.measured_link().rtt_s == pytest.approx(RTT_S - 2 * 8 * 111 / 100e3)


def test_a_declared_rate_is_not_measured() -> None:
    declared = replace(make_profile(0.8), link=LinkFields("cell-a", 200e3, 0.001))
    mesh, record = joined(declared)
    assert sent(mesh, 4000, 2.0) == []
    link = record.measured_link()
    assert (link.medium, link.rate_bps, link.frame_s) == ("cell-a", 200e3, 0.001)


def test_a_declared_round_trip_is_not_measured() -> None:
    declared = replace(make_profile(0.8), link=LinkFields("", 0.0, 0.0, rtt_s=0.25))
    _, record = joined(declared)
    assert record.heartbeat.rtt_s == pytest.approx(RTT_S)
    assert record.measured_link().rtt_s == 0.25


def pings(mesh: Mesh, first: float, end: float) -> list[float]:
    """When the draft node is sent one, of looks a tenth of a second apart."""
    looks = [first + tenth / 10 for tenth in range(round(10 * (end - first)))]
    said = [(now, [s.message for s in mesh.state.tick(now) if s.peer == DRAFT]) for now in looks]
    return [now for now, messages in said if any(isinstance(m, Ping) for m in messages)]


@pytest.mark.parametrize(
    ("rate_bps", "interval_s"),
    [
        # A Ping and its Pong are 222 bytes: a 50th of the link's time, but never less often than
        # three times before silence is too long.
        (1e6, 0.5),
        (100e3, 0.9),
        (50e3, 5 / 3),
    ],
)
def test_heartbeats_take_a_small_part_of_a_narrow_link(rate_bps: float, interval_s: float) -> None:
    mesh = make_mesh()
    declared = replace(make_profile(0.8), link=LinkFields("cell-a", rate_bps, 1e-4))
    mesh.join(DRAFT, "draft", declared)
    sent_at = pings(mesh, 1.0, 1.3 + 2 * interval_s)
    gaps = [b - a for a, b in itertools.pairwise(sent_at)]
    assert gaps == pytest.approx([interval_s] * 2, abs=0.11)


def test_a_link_over_which_nothing_comes_is_refused() -> None:
    mesh = make_mesh()
    dead = replace(make_profile(0.8), link=LinkFields("", 1e-300, 0.0))
    (refusal,) = mesh.join(DRAFT, "draft", dead)
    assert isinstance(refusal.message, Refuse)
    assert "at least 1000 bit/s" in refusal.message.reason


def test_a_very_narrow_link_is_pinged_often_enough_to_see_progress() -> None:
    declared = replace(make_profile(0.8), link=LinkFields("cell-a", 1e3, 0.0))
    _, record = joined(declared)
    # Ping and Pong take 1.8 s there.
    assert record.heartbeat.period_s == pytest.approx(record.progress_timeout_s / 4)


def test_what_padding_adds_to_a_ping_is_counted() -> None:
    declared = replace(make_profile(0.8), link=LinkFields("cell-a", 200e3, 0.0))
    periods = []
    for pads in (False, True):
        roster = Roster(0.05, 5.0, pads=pads)
        roster.hello(DRAFT, Hello("d", "draft", 1, PROTOCOL_VERSION, encode_struct(declared)), 1.0)
        (node,) = roster.nodes()
        periods.append(node.heartbeat.period_s)
    assert periods == pytest.approx([2 * 8 * 111 / 200e3 / 0.02, 2 * 8 * 609 / 200e3 / 0.02])


def test_a_target_that_joins_knows_the_ways_to_the_draft_nodes() -> None:
    mesh, _ = joined(make_profile(0.8))
    mesh.join(b"target-2", "target", make_profile())
    for scheduler in mesh.state.schedulers:
        node = scheduler.state.drafts[DRAFT.decode()]
        assert node.link.rtt_s == pytest.approx(RTT_S)


TARGET = b"target-2"


def target_joined(link: LinkFields) -> tuple[Mesh, NodeRecord]:
    mesh = make_mesh()
    mesh.join(TARGET, "target", replace(make_profile(), link=link))
    record = mesh.state._roster.node(TARGET.decode())
    assert record is not None
    assert record.scheduler is not None
    return mesh, record


@pytest.mark.parametrize(
    ("declared", "known"),
    [
        (LinkFields("", 0.0, 0.001), Link(rtt_s=RTT_S)),
        (LinkFields("", 0.0, 0.001, rtt_s=0.3), Link(rtt_s=0.3)),
        (LinkFields("cell-a", 200e3, 0.001, rtt_s=0.3), Link(200e3, 0.3, "cell-a", 0.001)),
        (LinkFields("", 200e3, 0.0, rtt_s=0.3), Link(200e3, 0.3)),
    ],
)
def test_what_a_target_declares_is_the_way_to_it(declared: LinkFields, known: Link) -> None:
    """One that declares neither air nor rate is on a wire, whatever its messages take there."""
    mesh, record = target_joined(declared)
    assert record.scheduler is not None
    state = record.scheduler.state
    if declared.rtt_s:
        # From the first plan on.
        assert state.link == known
    pings = [s.message for s in mesh.state.tick(1.0) if s.peer == TARGET]
    (ping,) = (message for message in pings if isinstance(message, Ping))
    mesh.hear(TARGET, Pong(ping.seq, 0), 1.0 + RTT_S)
    assert state.link.rtt_s == pytest.approx(known.rtt_s)
    assert replace(state.link, rtt_s=known.rtt_s) == known


@pytest.mark.parametrize("role", ["target", "draft"])
def test_others_have_turns_after_a_text_that_is_on_its_way(role: str) -> None:
    mesh, peer = make_mesh(), b"node"
    link = LinkFields("cell-a", 200e3, 0.001)
    mesh.join(peer, role, replace(make_profile(0.8), link=link))
    text = open_request(make_spec(1, prompt=(5,) * 500))
    mesh.state.sent(Send(peer, text), 2000, 1.0)
    told_s = 0.001 + (8 * 2000 + 1224) / 200e3
    medium = mesh.state._air["cell-a"]
    assert medium.reserved_s == pytest.approx(told_s)
    # Nothing but texts is reserved for when it is sent.
    mesh.state.sent(Send(peer, CloseStreamNotice(1, 1)), 2000, 1.0)
    assert medium.reserved_s == pytest.approx(told_s)
    assert medium.reserve(1.0, 1.0, told_s / 2).start == pytest.approx(1.0 + told_s)
