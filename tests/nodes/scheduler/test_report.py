"""What a scheduler says of itself, and that saying it changes nothing."""

from __future__ import annotations

import pytest

from tests.nodes.pure_mesh import DRAFT_COSTS, TARGET_COSTS
from tests.nodes.scheduler.script import (
    NO_DRAFT,
    ONE,
    TWO,
    commit_one,
    make_scheduler,
    open_stream,
)


def test_caps_are_those_of_the_plan_in_force() -> None:
    scheduler = make_scheduler("d")
    open_stream(scheduler, ONE, "d")
    assert scheduler.report.gammas() == {ONE: 4}
    assert scheduler.report.plan is scheduler.plan_in_force


def test_a_plain_stream_has_a_label_and_a_line_and_others_have_none() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    (plain,) = scheduler.streams()
    assert scheduler.report.plain(plain, 0) == "no_draft"
    assert scheduler.report.why_plain(plain) == NO_DRAFT
    guessing = make_scheduler("d")
    open_stream(guessing, TWO, "d")
    (guesser,) = guessing.streams()
    assert guessing.report.plain(guesser, 4) == ""


def test_costs_are_told_as_seen_since() -> None:
    scheduler = make_scheduler("d")
    report = scheduler.report
    costs = report.draft_costs("d")
    assert costs is not None
    assert costs.decode.at(1) == pytest.approx(DRAFT_COSTS.decode.at(1))
    assert report.draft_costs("other") is None
    found = report.target_costs()
    assert found is not None
    assert found.decode.at(4) == pytest.approx(TARGET_COSTS.decode.at(4))
    open_stream(scheduler, ONE)
    commit_one(scheduler, ONE)
    assert report.errors()["pass"].num_seen == 0
    assert report.cycle_s == 0.0
