"""Errors of predicted times, for each stage."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final, Literal

import numpy as np

from nodes.telemetry.status import ErrorStatus
from nodes.telemetry.trace.records import PassRecord, Record

# pass: the seconds of a pass of the target. plan: the weighted sum over streams of seconds a token,
# by which plans are compared.
Stage = Literal["pass", "plan"]
STAGES: Final[tuple[Stage, ...]] = ("pass", "plan")
# Enough cases for a 95th percentile, and little memory for each target.
_MEMORY: Final = 1000


class StageErrors:
    """Running errors of the predictions of each stage; they cost little and are always on."""

    def __init__(self) -> None:
        self._errors: dict[Stage, deque[float]] = {stage: deque(maxlen=_MEMORY) for stage in STAGES}
        self._num_seen = dict.fromkeys(STAGES, 0)

    def observe(self, stage: Stage, observed_s: float, predicted_s: float) -> None:
        """Record a case. Predictions that are not positive and finite count as unknown."""
        if observed_s > 0.0 and 0.0 < predicted_s < math.inf:
            self._errors[stage].append(abs(observed_s - predicted_s) / predicted_s)
            self._num_seen[stage] += 1

    def figures(self) -> Mapping[Stage, ErrorStatus]:
        return {stage: self._figures(stage) for stage in STAGES}

    def _figures(self, stage: Stage) -> ErrorStatus:
        errors = self._errors[stage]
        if not errors:
            return ErrorStatus(0, 0.0, 0.0)
        median, p95 = np.quantile(np.array(errors), (0.5, 0.95))
        return ErrorStatus(self._num_seen[stage], float(median), float(p95))


def errors_of(records: Iterable[Record]) -> ErrorStatus:
    """Return the errors of passes; records do not have the observed prices of plans."""
    errors = StageErrors()
    for record in records:
        if isinstance(record, PassRecord):
            errors.observe("pass", record.pass_s, record.predicted_s)
    return errors.figures()["pass"]
