"""One result beside an older one: what has become slower, judged by ratios within each run. Pure.

Absolute figures of two runs say as much of the two machines, or of the same one's other guests, as
of the software; a ratio to a reference in the same run says less of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.results.schema import Cell, Results, Value

# How far a ratio may fall before it counts, where intervals say nothing.
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
        """Beyond the tolerance, and outside of the older interval where it has one."""
        is_below = self.old.low is None or self.new.value < self.old.low
        return self.factor < 1.0 - _TOLERANCE and is_below


@dataclass(frozen=True, slots=True)
class Comparison:
    """missing: cells that only the older one has, or has all figures of."""

    changes: tuple[Change, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def num_worse(self) -> int:
        return sum(change.is_worse for change in self.changes)


def compare(old: Results, new: Results) -> Comparison:
    """Cells with the same place, system and reference, metric by metric."""
    notes = []
    if old.machine != new.machine:
        notes.append("the machines differ: ratios may, too")
    if old.is_quick != new.is_quick:
        notes.append("one of them is a quick run: its intervals are wide")
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
    """Metrics of which there are no ratios any more: all of it may have failed."""
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
    """As Markdown, what became worse first."""
    lines = [*comparison.notes, *(["", ""] if comparison.notes else [])]
    lines += ["| cell | ratio of | old | new | new / old | |", "|---|---|---|---|---|---|"]
    for change in sorted(comparison.changes, key=lambda change: change.factor):
        verdict = "worse" if change.is_worse else ""
        lines.append(
            f"| {change.place} | {change.metric} | {_shown(change.old)} | {_shown(change.new)} "
            f"| {change.factor:.3f} | {verdict} |"
        )
    lines += [f"not in the new one: {label}" for label in comparison.missing]
    return "\n".join(lines)


def _shown(value: Value) -> str:
    interval = "" if value.low is None else f" ({value.low:.3f} to {value.high:.3f})"
    return f"{value.value:.3f}{interval}"
