"""The rate of a link from what large messages take."""

import pytest

from mesh.heartbeat import HeartbeatState
from mesh.messages import Pong
from mesh.rates import RateEstimate

RTT_S = 0.02


def beating():
    """Heartbeats of a link whose round trip is known."""
    state = HeartbeatState(0.5)
    ping = state.due(0.0)
    state.on_pong(Pong(ping.seq, 0), RTT_S)
    return state


def test_a_large_message_tells_the_rate_by_the_ping_behind_it():
    state = beating()
    assert state.rate.bps is None
    num_bytes = 5000
    ping = state.sent(num_bytes, 1.0)
    state.on_pong(Pong(ping.seq, 0), 1.0 + RTT_S + 8 * num_bytes / 200e3)
    assert state.rate.bps == pytest.approx(200e3)
    # That was no round trip of the link.
    assert state.rtt_s == RTT_S


def test_small_messages_and_unknown_round_trips_tell_nothing():
    state = beating()
    assert state.sent(100, 1.0) is None
    assert HeartbeatState(0.5).sent(5000, 1.0) is None
    # One at a time: the second would be behind both messages.
    assert state.sent(5000, 1.0) is not None
    assert state.sent(5000, 1.001) is None


def test_a_lost_probe_is_not_waited_for_for_ever():
    state = beating()
    lost = state.sent(5000, 1.0)
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
