"""What a suite has found, in words: figures, rows of tables, faults, and the exit code."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn

import click
import numpy as np

_MOST_SHOWN: Final = 20


@dataclass(slots=True)
class Findings:
    """lines: what was measured. faults: what must not be, so that a suite without any is good."""

    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def summary(self) -> list[str]:
        return self.lines

    def __str__(self) -> str:
        shown = (f"  {fault}" for fault in self.faults[:_MOST_SHOWN])
        return "\n".join([*self.summary(), f"{len(self.faults)} faults", *shown])


def note(line: str) -> None:
    """Show a line about the progress of a suite."""
    click.echo(line, err=True)


def conclude(*found: Findings) -> NoReturn:
    """Show what was found and end the process, with exit code 1 if there are faults."""
    for each in found:
        click.echo(str(each))
    sys.exit(1 if any(each.faults for each in found) else 0)


def quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns the median, p99 and maximum, each one of the values; NaN if there are no values."""
    if not values:
        return (float("nan"),) * 3
    p50, p99, most = np.quantile(values, (0.5, 0.99, 1.0), method="higher")
    return float(p50), float(p99), float(most)


def spread(seconds: Sequence[float]) -> str:
    """Returns the quantiles as text."""
    if not seconds:
        return "none"
    p50, p99, longest = quantiles(seconds)
    return f"p50 {p50:.2f} s, p99 {p99:.2f} s, max {longest:.2f} s"


def counts(counter: Mapping[str, int], none: str = "none") -> str:
    """Returns the counts of a counter as text, in order of what is counted."""
    return ", ".join(f"{count} {what}" for what, count in sorted(counter.items())) or none


def row(*cells: object) -> str:
    """Returns a row of a table in Markdown."""
    return "| " + " | ".join(map(str, cells)) + " |"


def head(*columns: str) -> str:
    """Returns the first two lines of a table in Markdown."""
    return row(*columns) + "\n|" + "---|" * len(columns)
