"""Comparison of two results: which cases became slower, judged by ratios within each run. Pure.

Absolute figures of two runs also depend on the machines, and on other guests of a shared machine.
Ratios to a reference in the same run depend on these less.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.results.schema import Cell, Results, Value

# Share by which a ratio may fall before it counts as worse.
_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Change:
    """A ratio of one cell in both results."""

    place: str
    metric: str
    old: Value
    new: Value

    @property
    def factor(self) -> float:
        return self.new.value / self.old.value

    @property
    def is_worse(self) -> bool:
        """Whether the ratio fell by more than the tolerance, and below the old interval if any."""
        is_below = self.old.low is None or self.new.value < self.old.low
        return self.factor < 1.0 - _TOLERANCE and is_below


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of two results. missing: old cells that are absent or lack metrics in the new."""

    changes: tuple[Change, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def num_worse(self) -> int:
        return sum(change.is_worse for change in self.changes)


def compare(old: Results, new: Results) -> Comparison:
    """Compare cells with the same suite, place, system and reference, metric by metric."""
    notes = []
    if old.machine != new.machine:
        notes.append("the machines differ, so ratios may differ, too")
    if old.is_quick != new.is_quick:
        notes.append("one result is of a quick run: its intervals are wide")
    then = {_key(cell): cell for cell in old.cells}
    now = {_key(cell): cell for cell in new.cells}
    changes = [
        change for key, cell in then.items() if key in now for change in _changes(cell, now[key])
    ]
    missing = tuple(
        _label(cell) for key, cell in then.items() if key not in now or _lost(cell, now[key])
    )
    return Comparison(tuple(changes), missing, tuple(notes))


def _key(cell: Cell) -> tuple[str, str, str, str]:
    return cell.suite, cell.place, cell.system, cell.reference


def _lost(old: Cell, new: Cell) -> set[str]:
    """Metrics whose ratios are missing in the new cell: all requests may have failed."""
    return {value.metric for value in old.ratios} - {value.metric for value in new.ratios}


def _label(cell: Cell) -> str:
    to = f" to {cell.reference}" if cell.reference else ""
    return f"{cell.suite}: {cell.place}: {cell.system}{to}"


def _changes(old: Cell, new: Cell) -> Iterator[Change]:
    fresh = {value.metric: value for value in new.ratios}
    for value in old.ratios:
        if value.metric in fresh and value.value > 0:
            yield Change(_label(old), value.metric, value, fresh[value.metric])


def table(comparison: Comparison) -> str:
    """Return the comparison as Markdown, with the worst changes first."""
    lines = [*comparison.notes, *(["", ""] if comparison.notes else [])]
    lines += ["| cell | ratio of | old | new | new / old | |", "|---|---|---|---|---|---|"]
    for change in sorted(comparison.changes, key=lambda change: change.factor):
        verdict = "worse" if change.is_worse else ""
        lines.append(
            f"| {change.place} | {change.metric} | {_shown(change.old)} | {_shown(change.new)} "
            f"| {change.factor:.3f} | {verdict} |"
        )
    lines += [f"missing in the new result: {label}" for label in comparison.missing]
    return "\n".join(lines)


def _shown(value: Value) -> str:
    interval = "" if value.low is None else f" ({value.low:.3f} to {value.high:.3f})"
    return f"{value.value:.3f}{interval}"
