"""The table of links, and the cells that are made of it."""

from __future__ import annotations

import pytest

from bench.emulate.cell import DOWN, UP
from bench.emulate.medium import Medium
from bench.emulate.profiles import GOOD, PROFILES, LinkProfile, cell_of
from tests.bench.air_cells import run_out


@pytest.mark.parametrize("name", PROFILES)
def test_a_link_has_its_round_trip_and_rate_whatever_the_others_do(name: str) -> None:
    profile = PROFILES[name]
    calm = LinkProfile(name=name, rtt_s=profile.rtt_s, rate_bps=profile.rate_bps)
    medium = Medium(cell_of({"a": calm, "b": GOOD}, seed=1))
    for _ in range(50):
        medium.offer("b", UP, 1400, None, 0.0)
    medium.offer("a", UP, 1400, "there", 0.0)
    there = next(d for d in run_out(medium) if d.payload == "there").arrives_s
    began = 1.0
    medium.offer("a", DOWN, 1400, "back", began)
    back = next(d for d in run_out(medium, began) if d.payload == "back").arrives_s - began
    assert there + back == pytest.approx(profile.rtt_s + 2 * 1400 * 8 / profile.rate_bps)
