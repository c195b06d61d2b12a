"""The table of links, and the cells that are made of it."""

from __future__ import annotations

import pytest

from bench.emulate.cell import DOWN, UP
from bench.emulate.medium import Medium
from bench.emulate.profiles import BOTH, GOOD, PROFILES, LinkProfile, Outage, cell_of
from tests.bench.air_cells import run_out
from tests.bench.emulate.test_path import mean_loss


def test_the_table_is_what_the_guide_says() -> None:
    said = {name: (p.rtt_s, mean_loss(p.path), p.outage) for name, p in PROFILES.items()}
    assert said == {
        "good": (0.005, 0.0, None),
        "wifi": (0.020, 0.02, None),
        "burst": (0.020, pytest.approx(0.0238, abs=1e-4), None),
        "bad": (0.060, pytest.approx(0.1333, abs=1e-4), None),
        "blackout": (0.005, 0.0, Outage(directions=BOTH, lasts_s=3.0, every_s=20.0)),
        "one-way": (0.005, 0.0, Outage(directions=(UP,), lasts_s=8.0, every_s=20.0)),
        "one-way-back": (0.005, 0.0, Outage(directions=(DOWN,), lasts_s=8.0, every_s=20.0)),
        "half-open": (0.005, 0.0, Outage(directions=BOTH, lasts_s=8.0, every_s=20.0, moves=True)),
    }
    assert [name for name, p in PROFILES.items() if p.may_lose_nodes] == ["bad"]


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
