"""Errors of predicted times in records, computed as the scheduler computes them."""

from __future__ import annotations

from collections.abc import Iterable

from nodes.telemetry.stage_errors import STAGES, StageErrors
from nodes.telemetry.trace.records import PassRecord, Record


def errors_of(records: Iterable[Record]) -> StageErrors:
    """Return the errors of passes; records do not have the observed prices of plans."""
    errors = StageErrors()
    for record in records:
        if isinstance(record, PassRecord):
            errors.observe("pass", record.pass_s, record.predicted_s)
    return errors


def errors_text(errors: StageErrors) -> str:
    """Return a table with a row for each stage that has cases; "" if there are none."""
    figures = errors.figures()
    rows = [
        f"{stage:<6}{figures[stage].num_seen:>8}{figures[stage].median:>10.1%}"
        f"{figures[stage].p95:>10.1%}"
        for stage in STAGES
        if figures[stage].num_seen
    ]
    head = f"{'stage':<6}{'number':>8}{'median':>10}{'p95':>10}  errors of predicted times"
    return "\n".join([head, *rows]) if rows else ""
