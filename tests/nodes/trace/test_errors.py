from __future__ import annotations

import pytest

from bench.sim.world import World
from nodes.scheduler.watching.stage_errors import ErrorFigures, StageErrors
from nodes.trace.errors import errors_of, errors_text
from nodes.trace.recorder import RingRecorder
from nodes.trace.records import from_line
from nodes.trace.ring import Ring
from policies.baselines import POLICIES
from policies.plan import Link
from tests.bench.sim.test_sim import make_client, make_scenario
from tests.nodes.trace.examples import OTHERS, ROUND

LINK = Link(rtt_s=0.002)


@pytest.mark.parametrize("policy", ["max-batch", "single-stream", "alternating"])
def test_they_are_what_the_scheduler_has_itself(policy: str) -> None:
    clients = [make_client()] * 3
    world = World(make_scenario(clients, [LINK], noise=0.1, duration_s=8.0), POLICIES[policy])
    ring = Ring(10**6)
    world._scheduler.record(RingRecorder(ring, "t", lambda: 0.0), 0.0)
    world.run()
    records = [from_line(line) for line in ring.after(0, 10**9).lines.splitlines()]
    found, expected = errors_of(records).figures(), world._scheduler.stage_errors.figures()
    assert min(figures.num_seen for figures in expected.values()) > 50
    for stage, figures in expected.items():
        assert found[stage].num_seen == figures.num_seen
        assert found[stage].median == pytest.approx(figures.median, abs=1e-9)
        assert found[stage].p95 == pytest.approx(figures.p95, abs=1e-9)


def test_each_stage_of_a_round() -> None:
    figures = errors_of((*ROUND, *OTHERS)).figures()
    # 30 ms drafted for 24; 20 ms on the way for 10; 60 ms verified for 50; a lap of 120 for 200.
    expected = {"draft": 0.25, "link": 1.0, "pass": 0.2, "lap": 0.4}
    assert {stage: found.num_seen for stage, found in figures.items()} == dict.fromkeys(expected, 1)
    assert {stage: found.median for stage, found in figures.items()} == pytest.approx(expected)


def test_without_its_start_a_round_tells_nothing_of_its_link() -> None:
    assert errors_of(ROUND[2:]).figures()["link"] == ErrorFigures()


def test_a_row_for_each_stage_that_was_seen() -> None:
    errors = StageErrors()
    assert errors_text(errors) == ""
    errors.observe("pass", 1.5, 1.0)
    head, row = errors_text(errors).splitlines()
    assert head.split()[:4] == ["stage", "number", "median", "p95"]
    assert row.split() == ["pass", "1", "50.0%", "50.0%"]
