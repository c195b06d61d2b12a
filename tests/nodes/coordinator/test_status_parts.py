"""Parts of the status document whose inputs a coordinator's tests do not reach."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nodes.coordinator.status.parts import (
    count_status,
    cut,
    number,
    observed_status,
    plan_status,
    spans_of,
)
from nodes.messages import MAX_GAMMA
from nodes.scheduler.watching.counts import PLAIN_LABELS, RATIO_BOUNDS, TOKEN_KINDS, Counts
from nodes.scheduler.watching.stage_errors import STAGES
from policies.plan import Batch, BatchTimes, Plan, Prediction, Rejected
from tests.nodes.scheduler.script import make_scheduler


def predicted(cycle_s: float) -> Plan:
    times = BatchTimes(0.01, 0.002, 0.03, 0.042, np.int64(5))  # type: ignore[arg-type]
    batch = Batch((np.int64(1),), (np.int64(4),))  # type: ignore[arg-type]
    made = Prediction(cycle_s, "target", 0.1, 50.0, (times,))
    return Plan((batch,), policy="joint", prediction=made, rejected=Rejected("plain", 0.15))


def test_a_plan_is_told_with_its_times_and_the_best_other() -> None:
    scheduler = make_scheduler()
    scheduler._cycle.plan = predicted(0.05)
    found = plan_status(scheduler.report)
    (batch,) = found.batches
    assert (batch.draft_s, batch.air_s, batch.verify_s, batch.lap_s) == (0.01, 0.002, 0.03, 0.042)
    assert (found.cycle_s, found.bound, found.tokens_per_s) == (0.05, "target", 50.0)
    assert (found.rejected, found.rejected_ratio) == ("plain", pytest.approx(1.5))
    # What JSON writes as a number, whatever the policy computes with.
    assert {type(value) for value in (*batch.stream_ids, *batch.gammas, batch.num_tokens)} == {int}


def test_a_target_without_a_plan_promises_nothing() -> None:
    found = plan_status(make_scheduler().report)
    assert (found.batches, found.plain, found.cycle_s, found.tokens_per_s) == ((), (), 0.0, 0.0)


def test_every_counter_is_told_from_the_start() -> None:
    found = count_status(Counts())
    assert tuple(found.tokens) == TOKEN_KINDS
    assert tuple(found.plain_steps) == PLAIN_LABELS
    assert tuple(found.ratios) == STAGES
    assert len(found.made) == len(found.judged) == len(found.accepted) == MAX_GAMMA
    assert len(found.gammas) == MAX_GAMMA + 1
    assert all(len(ratio.counts) == len(RATIO_BOUNDS) + 1 for ratio in found.ratios.values())


def test_errors_are_told_by_stage() -> None:
    found = observed_status(
        make_scheduler().report, tokens_per_s=1.0, passes_per_s=2.0, cycle_s=0.5
    )
    assert tuple(found.errors) == STAGES
    assert (found.tokens_per_s, found.passes_per_s, found.cycle_s) == (1.0, 2.0, 0.5)


def test_old_spans_are_left_out() -> None:
    counts = Counts()
    counts.pass_done("t", 0.5, 0, 3, 10.0)
    counts.pass_done("t", 0.5, 0, 4, 19.0)
    (span,) = spans_of(counts, 25.0)
    assert (span.node, span.start_s, span.end_s, span.num_tokens) == ("t", 18.5, 19.0, 4)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_json_has_no_number_for_is_0(value: float) -> None:
    assert number(value, 3) == 0.0
    assert number(1.23456, 3) == 1.235


def test_names_are_cut() -> None:
    assert cut("x" * 100) == "x" * 64
