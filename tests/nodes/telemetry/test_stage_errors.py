from __future__ import annotations

import random

import pytest

from nodes.coordinator.tracing import RingRecorder
from nodes.telemetry.stage_errors import STAGES, StageErrors, errors_of
from nodes.telemetry.status import ErrorStatus
from nodes.telemetry.trace.records import from_line
from nodes.telemetry.trace.ring import Ring
from tests.nodes.scheduler.watched import commit, decoding
from tests.nodes.telemetry.trace.examples import FLOW, OTHERS

NONE = ErrorStatus(0, 0.0, 0.0)


def test_figures_are_of_relative_errors_whichever_way() -> None:
    errors = StageErrors()
    assert set(errors.figures()) == set(STAGES)
    assert set(errors.figures().values()) == {NONE}
    for observed_s in (1.0, 3.0, 2.5):
        errors.observe("pass", observed_s, 2.0)
    figures = errors.figures()
    # 0.5, 0.5 and 0.25: as far below as above is as wrong.
    assert figures["pass"] == ErrorStatus(3, 0.5, 0.5)
    assert figures["plan"] == NONE
    for number in range(101):
        errors.observe("plan", 1.0 + number / 100, 1.0)
    assert errors.figures()["plan"].p95 == pytest.approx(0.95)


def test_only_the_last_thousand_are_kept_but_all_are_counted() -> None:
    errors = StageErrors()
    for _ in range(500):
        errors.observe("pass", 3.0, 1.0)
    for _ in range(1000):
        errors.observe("pass", 1.5, 1.0)
    assert errors.figures()["pass"] == ErrorStatus(1500, 0.5, 0.5)


@pytest.mark.parametrize(("observed_s", "predicted_s"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)])
def test_what_is_not_known_is_no_error(observed_s: float, predicted_s: float) -> None:
    errors = StageErrors()
    errors.observe("pass", observed_s, predicted_s)
    assert errors.figures()["pass"] == NONE


def test_errors_of_a_trace_are_those_that_the_scheduler_has_itself() -> None:
    scheduler, ring = decoding("d", max_tokens=1000), Ring()
    scheduler.record(RingRecorder(ring, "t", lambda: 0.0), 0.0)
    chooser = random.Random(1)
    for number in range(200):
        commit(scheduler, 5, pass_s=chooser.uniform(0.02, 0.1), now=float(number))
    records = [from_line(line) for line in ring.after(0, 10**9).records.splitlines()]
    found = errors_of(records)
    assert found.num_seen == 200
    assert found == scheduler.stage_errors.figures()["pass"]


def test_passes_are_compared_with_what_was_predicted_of_them() -> None:
    found = errors_of((*FLOW, *OTHERS))
    # 60 ms for 50; of the other pass nothing was predicted.
    assert (found.num_seen, round(found.median, 9)) == (1, 0.2)
