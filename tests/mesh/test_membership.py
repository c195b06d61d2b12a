"""Membership: the cases by name, then any sequence of events against its invariants."""

import tracemalloc

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from airdraft.mesh.membership import Joined, Left, MembershipState, Refused
from airdraft.mesh.messages import PROTOCOL_VERSION, Hello, Pong
from airdraft.mesh.pauses import PauseState


def hello(node="a", incarnation=1, role="draft", protocol=PROTOCOL_VERSION):
    return Hello(node, role, incarnation, protocol, b"")


def join(state, *nodes):
    """Nodes join at 0, of peers b"1", b"2" and so on."""
    for number, node in enumerate(nodes, 1):
        state.on_hello(b"%d" % number, hello(node), 0)


@pytest.fixture
def state():
    return MembershipState(heartbeat_interval_s=1, heartbeat_timeout_s=3)


def test_repeated_hello_only_refreshes(state):
    state.on_hello(b"1", hello(), 0)
    assert state.on_hello(b"1", hello(), 2) == []
    assert state.tick(4) == []


@pytest.mark.parametrize(("peer", "incarnation"), [(b"2", 1), (b"1", 2), (b"2", 2)])
def test_another_connection_or_process_replaces(state, peer, incarnation):
    state.on_hello(b"1", hello(incarnation=1), 0)
    left, joined = state.on_hello(peer, hello(incarnation=incarnation), 1)
    assert (type(left), type(joined), left.reason) == (Left, Joined, "replaced")
    assert [m.peer for m in state.members()] == [peer]


def test_a_replaced_process_does_not_come_back(state):
    for incarnation in (1, 2, 3):
        state.on_hello(b"%d" % incarnation, hello(incarnation=incarnation), 0)
    for old in (1, 2):
        (event,) = state.on_hello(b"9", hello(incarnation=old), 1)
        assert isinstance(event, Refused)
    assert [m.incarnation for m in state.members()] == [3]


def test_a_lost_process_comes_back(state):
    state.on_hello(b"1", hello(), 0)
    assert len(state.leave(b"1", "lost")) == 1
    (event,) = state.on_hello(b"2", hello(), 2)
    assert isinstance(event, Joined)


@pytest.mark.parametrize(
    "bad", [hello(protocol=PROTOCOL_VERSION + 1), hello(node=""), hello(role=""), hello("b")]
)
def test_refusals_change_nothing(state, bad):
    """One connection is one node, too."""
    state.on_hello(b"1", hello("a"), 0)
    (event,) = state.on_hello(b"1", bad, 0)
    assert isinstance(event, Refused)
    assert [m.node for m in state.members()] == ["a"]


def test_silence(state):
    join(state, "a", "b")
    assert state.on_message(b"2", 2) is state.by_peer(b"2")
    assert state.tick(3) == []
    (left,) = state.tick(3.2)
    assert (left.member.node, left.reason) == ("a", "silent for 3.2 s")
    assert state.by_peer(b"1") is None
    assert state.on_message(b"1", 4) is None


def test_while_this_side_did_not_listen_nobody_was_silent(state):
    join(state, "gone", "there")
    state.on_hello(b"3", hello("new"), 19)
    state.on_message(b"1", 1)
    # This side was stopped from 1 to 20 s; what came meanwhile is read after that.
    state.paused(19, 20)
    assert state.tick(20) == []
    # Nor did anybody stand still.
    assert state.by_peer(b"1").progress_at == 19
    assert state.by_peer(b"3").last_seen == 20, "never later than now"
    state.on_message(b"2", 20.1)
    state.on_message(b"3", 20.1)
    (left,) = state.tick(23.01)
    assert (left.member.node, left.reason) == ("gone", "silent for 3.0 s")


def test_a_silent_member_stays_if_a_part_of_a_message_has_come(state):
    join(state, "a", "b")
    assert state.silent(3) == []
    assert state.silent(3.2) == [b"1", b"2"]
    state.on_message(b"1", 3.1)
    state.on_message(b"2", -1)
    assert [left.member.node for left in state.tick(3.2)] == ["b"]


def test_only_a_busy_member_has_to_make_progress(state):
    join(state, "stuck", "working", "idle")
    for now in range(1, 12):
        state.on_pong(b"1", Pong(now, 0), True, now)
        state.on_pong(b"2", Pong(now, now), True, now)
        state.on_pong(b"3", Pong(now, 0), False, now)
    assert [m.progress_at for m in state.members()] == [0, 11, 11]


def test_members_are_bounded_and_those_that_left_make_room(state):
    for i in range(5000):
        events = state.on_hello(b"%d" % i, hello(f"n{i}"), 0)
    assert isinstance(events[0], Refused)
    assert len(state.members()) == 4096
    for i in range(4096):
        state.leave(b"%d" % i, "done")
        (event,) = state.on_hello(b"new %d" % i, hello(f"new-{i}"), 0)
        assert isinstance(event, Joined)


def test_names_that_have_left_take_little():
    state = MembershipState(1, 3)
    tracemalloc.start()
    try:
        for i in range(4000):
            state.on_hello(b"%d" % i, hello(f"client-{i}", role="client"), 0)
            state.leave(b"%d" % i, "lost")
        assert tracemalloc.get_traced_memory()[0] < 4000 * 400
    finally:
        tracemalloc.stop()


def test_a_pause_is_what_is_longer_than_asked_and_is_told_once():
    pauses = PauseState()
    assert pauses.looked(100.0, 0.5) == 0.0, "nothing to compare with"
    assert pauses.looked(100.5, 0.5) == 0.0
    assert pauses.looked(101.2, 0.5) == 0.0, "a busy loop"
    assert pauses.looked(101.3, 0.5) == 0.0, "sooner than asked"
    assert pauses.looked(106.8, 0.5) == pytest.approx(5.0)
    assert pauses.looked(107.3, 0.5) == 0.0


PEERS = st.sampled_from([b"1", b"2", b"3", b"4"])


class Machine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.state = MembershipState(1, 3)
        self.now = 0.0
        self.inside = {}

    def apply(self, events):
        """Joins and leaves alternate per node."""
        for event in events:
            match event:
                case Joined(member):
                    assert member.node not in self.inside
                    self.inside[member.node] = member
                case Left(member):
                    assert self.inside.pop(member.node) is member

    @rule(peer=PEERS, node=st.sampled_from("abc"), incarnation=st.integers(1, 4))
    def says_hello(self, peer, node, incarnation):
        self.apply(self.state.on_hello(peer, hello(node, incarnation), self.now))

    @rule(peer=PEERS)
    def leaves(self, peer):
        self.apply(self.state.leave(peer, "lost"))

    @rule(peer=PEERS, progress=st.integers(0, 2), busy=st.booleans())
    def answers(self, peer, progress, busy):
        self.state.on_pong(peer, Pong(0, progress), busy, self.now)

    @rule(seconds=st.floats(0, 4))
    def time_passes(self, seconds):
        self.now += seconds
        self.apply(self.state.tick(self.now))
        for member in self.state.members():
            assert self.now - member.last_seen <= 3

    @invariant()
    def agrees(self):
        members = self.state.members()
        assert {m.node: m for m in members} == self.inside
        assert len({m.peer for m in members}) == len(members)
        for member in members:
            assert self.state.by_peer(member.peer) is member


TestMachine = Machine.TestCase
