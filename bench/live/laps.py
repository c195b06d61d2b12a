"""Laps in which no prompt came or was through, and those in which one did."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from nodes.scheduler.watching.stage_errors import ErrorFigures, StageErrors
from nodes.trace.records import LapRecord, Record
from nodes.trace.ring import Ring


class LapRing(Ring):
    """Keeps the laps of a trace, all of them, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.laps: list[LapRecord] = []

    def add(self, record: Record) -> None:
        if isinstance(record, LapRecord):
            self.laps.append(record)


def lap_errors(
    laps: Iterable[LapRecord], changed_at: Sequence[float]
) -> tuple[ErrorFigures, ErrorFigures]:
    """Errors of steady laps and of the others.

    changed_at: when prompts came or were through, ascending, by the laps' clock. Pure.
    """
    steady, others = StageErrors(), StageErrors()
    for lap in laps:
        before = bisect_right(changed_at, lap.at_s - lap.lap_s)
        errors = steady if before == bisect_right(changed_at, lap.at_s) else others
        errors.observe("lap", lap.lap_s, lap.predicted_s)
    return steady.figures()["lap"], others.figures()["lap"]
