"""Errors of predictions in a mesh where the truth is known."""

from __future__ import annotations

import pytest

from bench.sim.world import World
from nodes.scheduler.watching.stage_errors import StageErrors
from policies.plan import Link
from tests.bench.sim.test_sim import each_alone, make_client, make_scenario

LINK = Link(rate_bps=1e6, rtt_s=0.02, medium="cell", frame_s=1e-3)


def errors(noise: float) -> StageErrors:
    world = World(make_scenario([make_client()], [LINK], noise=noise), each_alone)
    world.run()
    return world._scheduler.stage_errors


def test_where_costs_are_as_believed_there_are_hardly_any() -> None:
    figures = errors(noise=0.0).figures()
    assert min(figures[stage].num_seen for stage in ("draft", "link", "pass")) > 500
    # A node tells its time in whole microseconds, of some 25 ms here.
    assert figures["draft"].p95 < 1e-4
    assert figures["link"].p95 < 1e-4
    # What prompts take of the target's time is an estimate.
    assert figures["pass"].p95 < 0.01


def test_noise_of_passes_is_seen_as_such_and_not_as_the_links() -> None:
    """Log-normal factors of 0.1: half of them are within 6.7 %, 19 of 20 within some 20 %."""
    figures = errors(noise=0.1).figures()
    assert figures["pass"].median == pytest.approx(0.067, rel=0.1)
    assert figures["pass"].p95 == pytest.approx(0.2, rel=0.1)
    # Four steps average out.
    assert 0.01 < figures["draft"].median < figures["pass"].median
    assert figures["link"].p95 < 1e-4
