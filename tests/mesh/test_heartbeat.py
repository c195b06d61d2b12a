"""When Pings are due, and the round trips and rates that Pongs show, under a clock of our own."""

import pytest

from airdraft.mesh.heartbeat import HeartbeatState
from airdraft.mesh.messages import Ping, Pong
from airdraft.mesh.rates import RateEstimate


@pytest.fixture
def state():
    return HeartbeatState(interval_s=1)


def answered(state, seq, rtt_s):
    """The Ping of a second is answered after so long."""
    state.due(seq)
    state.on_pong(Pong(seq=seq, progress=0), seq + rtt_s)


def test_pings_keep_the_interval(state):
    assert state.due(10) == Ping(seq=0, progress=0)
    assert state.due(10.5) is None
    assert state.due(11) == Ping(seq=1, progress=0)
    # After a stall there is one Ping, not all the missed ones.
    assert state.due(60) == Ping(seq=2, progress=0)
    assert state.due(60) is None


def test_where_both_sides_speak_a_narrow_link_is_spared_pings(state):
    state.period_s = 3
    state.due(0)
    for tenth in range(1, 30):
        state.said(tenth / 10)
        state.on_any(tenth / 10)
        assert state.due(tenth / 10) is None
    # The way is still measured now and then.
    assert state.due(3) == Ping(seq=1, progress=0)
    # One side that says nothing, either of them, is asked after an interval.
    for tenth in range(31, 40):
        state.on_any(tenth / 10)
        assert state.due(tenth / 10) is None
    assert state.due(4.1) == Ping(seq=2, progress=0)
    for tenth in range(42, 51):
        state.said(tenth / 10)
        assert state.due(tenth / 10) is None
    assert state.due(5.2) == Ping(seq=3, progress=0)


def test_without_a_longer_period_pings_keep_the_interval_whatever_is_said(state):
    state.due(0)
    state.said(0.9)
    state.on_any(0.9)
    assert state.due(1) == Ping(seq=1, progress=0)


def test_a_probe_does_not_change_when_pings_are_due(state):
    state.due(0)
    assert state.probe(0.5) == Ping(seq=1, progress=0)
    assert state.due(0.9) is None
    assert state.due(1.0) == Ping(seq=2, progress=0)
    state.on_pong(Pong(seq=1, progress=0), 0.6)
    assert state.rtt_s == pytest.approx(0.1)


def test_round_trip_is_smoothed_and_needs_a_known_seq(state):
    state.due(0)
    assert state.rtt_s is None
    state.on_pong(Pong(seq=5, progress=0), 0.1)
    assert state.rtt_s is None
    state.on_pong(Pong(seq=0, progress=0), 0.1)
    assert state.rtt_s == pytest.approx(0.1)
    state.on_pong(Pong(seq=0, progress=0), 2)
    assert state.rtt_s == pytest.approx(0.1), "a repeated Pong is no sample"
    answered(state, 1, 0.9)
    assert state.rtt_s == pytest.approx((0.1 + 0.9) / 2), "of the first ones the mean"
    for seq in range(2, 30):
        answered(state, seq, 0.2)
    before_s = state.rtt_s
    answered(state, 30, 1.0)
    assert state.rtt_s == pytest.approx(before_s + (1.0 - before_s) / 8)


def test_pings_that_waited_behind_other_messages_do_not_make_the_way_longer(state):
    assert state.clear_rtt_s is None
    # A start that fills a narrow link for some seconds, then nearly every Ping waits for something.
    for seq, rtt_s in enumerate((0.6, 0.5, 0.1, 0.9, 0.03, 0.5, 0.02, 0.4, 0.2, 0.3)):
        answered(state, seq, rtt_s)
    assert state.clear_rtt_s == pytest.approx(0.02)
    # A way that is longer from now on is seen to be, some dozens of Pings later.
    for seq in range(10, 74):
        answered(state, seq, 0.2)
    assert state.clear_rtt_s == pytest.approx(0.2)


def test_pongs_that_a_side_read_late_are_no_round_trips(state):
    answered(state, 0, 0.1)
    state.due(1)
    # It stood still for five seconds, and finds the Pong when it goes on.
    state.forget_pings()
    state.on_pong(Pong(seq=1, progress=0), 6.0)
    assert state.rtt_s == pytest.approx(0.1)


def test_unanswered_pings_are_not_kept_for_ever(state):
    for second in range(1000):
        state.due(second)
    state.on_pong(Pong(seq=1, progress=0), 1000)
    assert state.rtt_s is None


RTT_S = 0.02


@pytest.fixture
def beating(state):
    """Heartbeats of a link whose round trip is known."""
    answered(state, 0, RTT_S)
    return state


def test_a_large_message_tells_the_rate_by_the_ping_behind_it(beating):
    state = beating
    assert state.rate.bps is None
    num_bytes = 5000
    ping = state.sent(num_bytes, 1.0)
    state.on_pong(Pong(ping.seq, 0), 1.0 + RTT_S + 8 * num_bytes / 200e3)
    assert state.rate.bps == pytest.approx(200e3)
    # That was no round trip of the link.
    assert state.rtt_s == RTT_S


def test_small_messages_unknown_round_trips_and_lost_probes_tell_nothing(beating):
    state = beating
    assert state.sent(100, 1.0) is None
    assert HeartbeatState(0.5).sent(5000, 1.0) is None
    # One at a time: the second would be behind both messages.
    lost = state.sent(5000, 1.0)
    assert state.sent(5000, 1.001) is None
    # Nor is a lost one waited for for ever.
    ping = state.due(1.1)
    assert ping.seq > lost.seq
    state.on_pong(Pong(ping.seq, 0), 1.1 + RTT_S)
    assert state.rate.bps is None
    assert state.sent(5000, 2.0) is not None


def test_a_fast_link_is_just_fast_and_one_sample_is_not_everything():
    estimate = RateEstimate()
    estimate.observe(10_000, RTT_S - 0.001, RTT_S)
    assert estimate.bps == pytest.approx(80e6)
    estimate = RateEstimate()
    for _ in range(30):
        estimate.observe(1250, RTT_S + 0.01, RTT_S)
    assert estimate.bps == pytest.approx(1e6)
    estimate.observe(1250, RTT_S + 0.16, RTT_S)
    assert estimate.bps == pytest.approx(0.5e6)
