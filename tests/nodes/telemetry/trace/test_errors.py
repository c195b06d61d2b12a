from __future__ import annotations

import random

from nodes.coordinator.tracing import RingRecorder
from nodes.telemetry.stage_errors import ErrorFigures, StageErrors, errors_of, errors_text
from nodes.telemetry.trace.records import from_line
from nodes.telemetry.trace.ring import Ring
from tests.nodes.scheduler.watched import commit, decoding
from tests.nodes.telemetry.trace.examples import FLOW, OTHERS


def test_they_are_what_the_scheduler_has_itself() -> None:
    scheduler, ring = decoding("d", max_tokens=1000), Ring()
    scheduler.record(RingRecorder(ring, "t", lambda: 0.0), 0.0)
    chooser = random.Random(1)
    for number in range(200):
        commit(scheduler, 5, pass_s=chooser.uniform(0.02, 0.1), now=float(number))
    records = [from_line(line) for line in ring.after(0, 10**9).lines.splitlines()]
    found = errors_of(records).figures()["pass"]
    assert found.num_seen == 200
    assert found == scheduler.stage_errors.figures()["pass"]


def test_passes_are_compared_with_what_was_predicted_of_them() -> None:
    figures = errors_of((*FLOW, *OTHERS)).figures()
    # 60 ms for 50; of the other pass nothing was predicted.
    assert figures["pass"].num_seen == 1
    assert round(figures["pass"].median, 9) == 0.2
    assert figures["plan"] == ErrorFigures()


def test_a_row_for_each_stage_that_was_seen() -> None:
    errors = StageErrors()
    assert errors_text(errors) == ""
    errors.observe("pass", 1.5, 1.0)
    head, row = errors_text(errors).splitlines()
    assert head.split()[:4] == ["stage", "number", "median", "p95"]
    assert row.split() == ["pass", "1", "50.0%", "50.0%"]
