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
from nodes.scheduler.planning import Mode
from nodes.telemetry.counts import FATES, PLAIN_LABELS, RATIO_BOUNDS, TOKEN_KINDS, Counts
from nodes.telemetry.stage_errors import STAGES
from policies.plan import Batch, BatchTimes, Observation, Plan, Prediction
from tests.nodes.scheduler.watched import admit, make_scheduler, ready


def predicted(observation: Observation) -> Plan:
    """A policy that computes with numbers of numpy."""
    times = BatchTimes(0.01, 0.002, 0.03, 0.042, np.int64(5))  # type: ignore[arg-type]
    batch = Batch((np.int64(1),), (np.int64(4),))  # type: ignore[arg-type]
    made = Prediction(0.05, "target", 0.1, 50.0, (times,))
    return Plan((batch,), policy="joint", prediction=made)


def test_groups_in_force_are_told_with_their_times() -> None:
    scheduler = make_scheduler("d", mode=Mode(predicted, is_grouped=True))
    admit(scheduler)
    ready(scheduler)
    scheduler.tick(0.0)
    found = plan_status(scheduler.report)
    (batch,) = found.batches
    assert (batch.draft_s, batch.air_s, batch.verify_s, batch.round_s) == (0.01, 0.002, 0.03, 0.042)
    assert (found.policy, found.bound, found.tokens_per_s) == ("joint", "target", 50.0)
    assert found.grouped_price_s == 0.1
    assert 0.0 < found.open_price_s < 0.1
    # What JSON writes as a number, whatever the policy computes with.
    assert {type(value) for value in (*batch.stream_ids, *batch.gammas, batch.num_tokens)} == {int}


def test_a_target_without_a_plan_has_open_flow_and_no_prices() -> None:
    found = plan_status(make_scheduler().report)
    assert (found.policy, found.batches, found.plain) == ("flow", (), ())
    assert (found.tokens_per_s, found.open_price_s, found.grouped_price_s) == (0.0, 0.0, 0.0)


def test_a_plan_without_groups_has_no_price_for_them() -> None:
    scheduler = make_scheduler("d", mode=Mode(lambda _: Plan(policy="none")))
    admit(scheduler)
    ready(scheduler)
    scheduler.tick(0.0)
    found = plan_status(scheduler.report)
    assert found.grouped_price_s == 0.0
    assert found.open_price_s > 0.0


def test_every_counter_is_told_from_the_start() -> None:
    found = count_status(Counts())
    assert tuple(found.tokens) == TOKEN_KINDS
    assert tuple(found.plain_steps) == PLAIN_LABELS
    assert tuple(found.guesses) == FATES
    assert tuple(found.ratios) == STAGES
    assert len(found.made) == len(found.judged) == len(found.accepted) == MAX_GAMMA
    assert len(found.gammas) == MAX_GAMMA + 1
    assert all(len(ratio.counts) == len(RATIO_BOUNDS) + 1 for ratio in found.ratios.values())


def test_errors_are_told_by_stage() -> None:
    found = observed_status(make_scheduler().report, tokens_per_s=1.0, passes_per_s=2.0)
    assert tuple(found.errors) == STAGES
    assert (found.tokens_per_s, found.passes_per_s, found.price_s) == (1.0, 2.0, 0.0)


def test_old_spans_are_left_out() -> None:
    counts = Counts()
    counts.pass_done("t", 0.5, 3, 0, 10.0)
    counts.pass_done("t", 0.5, 4, 2, 19.0)
    (span,) = spans_of(counts, 25.0)
    assert (span.node, span.start_s, span.end_s) == ("t", 18.5, 19.0)
    assert (span.num_tokens, span.num_guesses) == (4, 2)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_json_has_no_number_for_is_0(value: float) -> None:
    assert number(value, 3) == 0.0
    assert number(1.23456, 3) == 1.235


def test_names_are_cut() -> None:
    assert cut("x" * 100) == "x" * 64
