"""What the way to the target costs streams that are guessed by lookup."""

from __future__ import annotations

import pytest

from nodes.scheduler.leases import Leases
from nodes.scheduler.stream import Idle, Leased, Stream
from tests.nodes.builders import PROMPT, make_spec


def make_leases(rtt_s: float = 0.001) -> Leases:
    leases = Leases({}, lambda: 0.0)
    leases.target_rtt_s = rtt_s
    leases.pass_done(0.02)
    return leases


def test_the_way_is_what_rounds_take_beside_their_passes() -> None:
    leases = make_leases()
    assert leases.way_s == 0.001
    for _ in range(100):
        leases.pass_done(0.02)
        leases.round_done(0.023)
    assert leases.way_s == pytest.approx(0.003)
    # Something that came between is no way; nor is it less than what Pings take.
    leases.round_done(10.0)
    assert leases.way_s < 0.005
    for _ in range(100):
        leases.round_done(0.0)
    assert leases.way_s == 0.001


def test_who_decodes_by_itself_pays_the_way_twice_for_a_round() -> None:
    leases = make_leases()
    stream = Stream(make_spec(), list(PROMPT), None)
    stream.phase = Idle()
    assert leases.toll_of_rounds([stream], keep_step=True) == (0.001, 1.0)
    stream.phase = Leased(len(stream.token_ids) + 3)
    assert leases.toll_of_rounds([stream], keep_step=True) == (0.002, 1.0)
    # Beside others nobody waits, and the stream misses a pass.
    assert leases.toll_of_rounds([stream], keep_step=False) == (0.0, 2.0)
