"""What the coordinator knows of its links: declared, or measured by what it sends anyway."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from airdraft.mesh.codec import decode, encode, encode_struct
from airdraft.mesh.messages import PROTOCOL_VERSION, Hello, Ping, Pong, Welcome
from airdraft.nodes.coordinator.members.roster import Roster
from airdraft.nodes.coordinator.sends import Send
from airdraft.nodes.messages import CloseStreamNotice, CommitNotice, LinkFields, NodesRequest
from airdraft.nodes.scheduler.drafts import Drafts
from airdraft.nodes.scheduler.in_force import begin_plan
from airdraft.nodes.scheduler.scheduler import Scheduler
from airdraft.policies.plan import Link
from tests.nodes.builders import make_profile, make_spec
from tests.nodes.coordinator.script import CLIENT, DRAFT, TARGET, Mesh, make_mesh

RTT_S = 0.02
UNDECLARED = LinkFields("", 0.0, 0.0)


class OneNode:
    """A roster with one node, whose round trip has been measured."""

    def __init__(
        self, declared: LinkFields = UNDECLARED, role: str = "draft", *, pads: bool = False
    ) -> None:
        self.roster = Roster(
            Welcome("", "c", 1, 0.05, 5.0, pads), lambda _, __, costs: Scheduler(costs, Drafts())
        )
        profile = encode_struct(replace(make_profile(0.8), link=declared))
        self.roster.hello(DRAFT, Hello("n", role, 1, PROTOCOL_VERSION, profile), 0.0)
        (self.node,) = self.roster.nodes()
        (send,) = self.roster.pings(1.0)
        self.answer(send.message, 1.0 + RTT_S)

    def answer(self, ping: Ping, now: float) -> None:
        self.roster.membership.on_message(DRAFT, now)
        self.roster.pong(DRAFT, Pong(ping.seq, 0), now)

    def sent(self, num_bytes: int, now: float) -> Ping | None:
        return self.roster.sent(DRAFT, num_bytes, now, is_ping=False)


def test_the_rate_is_that_of_large_messages() -> None:
    one = OneNode()
    assert one.node.measured_link().rtt_s == pytest.approx(RTT_S)
    assert one.node.measured_link().rate_bps == float("inf")
    assert one.sent(100, 2.0) is None
    ping = one.sent(4000, 2.0)
    one.answer(ping, 2.0 + RTT_S + 8 * 4000 / 100e3)
    assert one.node.measured_link().rate_bps == pytest.approx(100e3)
    # Of its round trip 17.8 ms were Ping and Pong themselves: messages are charged for their own.
    assert one.node.measured_link().rtt_s == pytest.approx(RTT_S - 2 * 8 * 111 / 100e3)


def test_a_node_that_was_slow_to_answer_once_is_not_taken_for_one_behind_a_narrow_link() -> None:
    """Texts are sent to that one in pieces, which are too small to measure the rate again."""
    one = OneNode()
    ping = one.sent(2000, 2.0)
    one.answer(ping, 2.0 + RTT_S + 10.0)
    # A Ping of 111 bytes has crossed the link within its round trip.
    assert one.node.measured_link().rate_bps == pytest.approx(8 * 111 / RTT_S)


def test_a_node_that_answers_a_ping_an_hour_late_does_not_hide_the_others() -> None:
    mesh = make_mesh(with_draft=True)
    (ping,) = mesh.due(1.0).said(Ping, DRAFT)
    mesh.hear(DRAFT, Pong(ping.seq, 0), 1.0 + 3600.0)
    (reply,) = mesh.hear(CLIENT, NodesRequest(1), 1.0 + 3600.0)
    frames = encode(reply.message, cluster="c", epoch=1)
    assert [node.node for node in decode(frames).message.nodes] == ["target", "draft"]


def test_the_round_trip_to_a_client_is_measured_too() -> None:
    mesh = make_mesh()
    (ping,) = mesh.due(1.0).said(Ping, CLIENT)
    assert mesh.state.roster.client_rtt_s(CLIENT) == 0.0
    mesh.hear(CLIENT, Pong(ping.seq, 0), 1.0 + RTT_S)
    assert mesh.state.roster.client_rtt_s(CLIENT) == pytest.approx(RTT_S)
    assert mesh.state.roster.client_rtt_s(b"stranger") == 0.0


def test_what_is_declared_is_not_measured() -> None:
    one = OneNode(LinkFields("cell-a", 200e3, 0.001))
    assert one.sent(4000, 2.0) is None
    link = one.node.measured_link()
    assert (link.medium, link.rate_bps, link.frame_s) == ("cell-a", 200e3, 0.001)


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
    link = OneNode(declared, "target").node.target_link()
    assert link.rtt_s == pytest.approx(known.rtt_s)
    assert replace(link, rtt_s=known.rtt_s) == known


def test_plans_of_a_target_know_the_ways_to_it_and_to_the_draft_nodes() -> None:
    mesh = make_mesh(with_draft=True)
    (ping,) = mesh.due(1.0).said(Ping, DRAFT)
    mesh.hear(DRAFT, Pong(ping.seq, 0), 1.0 + RTT_S)
    # This one joins when the way to the draft node has been measured.
    second, link = b"second", LinkFields("", 0.0, 0.0, rtt_s=0.3)
    mesh.join(second, "target", replace(make_profile(), link=link), now=2.0)
    mesh.gone(TARGET, 2.0)
    mesh.submit(now=2.0, max_tokens=50)
    for peer in (DRAFT, second):
        mesh.ready(peer=peer, now=2.0)
    (target,) = mesh.state.roster.targets()
    scheduler = target.scheduler
    planning = begin_plan(scheduler, 2.0)
    (draft,) = planning.observation.drafts
    assert draft.link.rtt_s == pytest.approx(RTT_S + 0.3)
    assert planning.observation.target_link == Link(rtt_s=0.3)


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
def test_heartbeats_take_a_small_part_of_a_narrow_link(
    mesh: Mesh, rate_bps: float, interval_s: float
) -> None:
    declared = replace(make_profile(0.8), link=LinkFields("cell-a", rate_bps, 1e-4))
    mesh.join(DRAFT, "draft", declared)
    looks = [1.0 + tenth / 10 for tenth in range(round(10 * (0.3 + 2 * interval_s)))]
    sent_at = [now for now in looks if mesh.due(now).said(Ping, DRAFT)]
    gaps = [later - sooner for sooner, later in itertools.pairwise(sent_at)]
    assert gaps == pytest.approx([interval_s] * 2, abs=0.11)


def test_heartbeats_of_a_link_count_padding_and_are_often_enough_to_see_progress() -> None:
    link = LinkFields("cell-a", 200e3, 0.0)
    periods = [OneNode(link, pads=pads).node.heartbeat.period_s for pads in (False, True)]
    # Of 200 kbit/s a fiftieth is for Pings.
    assert periods == pytest.approx([2 * 8 * 111 / 4e3, 2 * 8 * 609 / 4e3])
    node = OneNode(LinkFields("cell-a", 1e3, 0.0)).node
    # Ping and Pong take 1.8 s there.
    assert node.heartbeat.period_s == pytest.approx(node.progress_timeout_s / 4)


def test_the_air_of_a_draft_node_that_is_gone_is_for_the_others_at_once() -> None:
    mesh, peers = make_mesh(), (b"one", b"two")
    link = LinkFields("cell-a", 200e3, 0.001)
    for peer in peers:
        mesh.join(peer, "draft", make_profile(0.8, link=link, max_streams=1))
    for number, peer in enumerate(peers, 1):
        assert mesh.submit(number, max_tokens=90).opened(peer) == [number]
        mesh.ready(number)
    (shared,) = mesh.commit(1, 3, now=1.0).said(CommitNotice)
    mesh.gone(b"two", 2.0)
    (alone,) = mesh.commit(1, 4, now=2.0).said(CommitNotice)
    assert alone.rate_bps == pytest.approx(2 * shared.rate_bps, rel=0.01)


@pytest.mark.parametrize("role", ["target", "draft"])
def test_the_air_is_reserved_for_a_text_that_is_being_sent(role: str) -> None:
    mesh, peer = make_mesh(), b"node"
    link = LinkFields("cell-a", 200e3, 0.001)
    mesh.join(peer, role, replace(make_profile(0.8), link=link))
    # Nothing but texts is reserved for when it is sent.
    for message in (make_spec(1, prompt=(5,) * 500), CloseStreamNotice(1, 1)):
        mesh.state.sent(Send(peer, message), 2000, 1.0)
    (medium,) = mesh.status(1.0).media
    assert medium.name == "cell-a"
    assert medium.reserved_s == pytest.approx(0.001 + (8 * 2000 + 1224) / 200e3)
