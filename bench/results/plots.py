"""PNG pictures of a result: ratios with their intervals, and tokens/s. Needs matplotlib.

matplotlib is loaded only when something is drawn. The names of suites contain the words emulated or
simulated where these apply, and pictures have these names as titles.
"""

from __future__ import annotations

import importlib.util
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.results.schema import Cell, Results, Value

# The first of these metrics that a suite has is drawn.
_RATES = {"decode tokens/s": "tokens/s while all decode", "tokens/s": "tokens/s"}
_ROW_INCHES = 0.26
_LABEL_WIDTH = 44
# If largest over smallest value exceeds this, the axis is logarithmic to show small values.
_LOG_FROM = 12.0


@dataclass(frozen=True, slots=True)
class _Bar:
    """One bar of a place, in the colour of its series."""

    place: str
    series: str
    value: Value


def missing() -> str:
    """Return in one line why nothing can be drawn; "" if it can."""
    if importlib.util.find_spec("matplotlib") is None:
        return "matplotlib is not installed: pip install '.[bench]'"
    return ""


def plot_all(results: Results, folder: Path) -> dict[str, list[str]]:
    """Draw every picture of a result into an existing folder; return the files by suite."""
    made: dict[str, list[str]] = {}
    for suite in dict.fromkeys(cell.suite for cell in results.cells):
        cells = [cell for cell in results.cells if cell.suite == suite]
        name = re.sub(r"[^a-z0-9]+", "-", suite.lower()).strip("-")
        title = suite + ", quick run" * results.is_quick
        for kind, is_ratio in (("ratios", True), ("rates", False)):
            path = folder / f"{name}-{kind}.png"
            if _plot(path, title, cells, is_ratio=is_ratio):
                made.setdefault(suite, []).append(path.as_posix())
    return made


def _plot(path: Path, title: str, cells: Iterable[Cell], *, is_ratio: bool) -> bool:
    """Draw ratios, as bars from 1, or the rates of each system. Returns False if there are none."""
    found = [
        _Bar(cell.place, f"{cell.system} / {cell.reference}" if is_ratio else cell.system, value)
        for cell in cells
        if bool(cell.reference) is is_ratio
        for value in (cell.ratios if is_ratio else cell.values)
        if is_ratio or value.metric in _RATES
    ]
    known = dict.fromkeys(bar.value.metric for bar in found)
    metric = next((metric for metric in (*_RATES, *known) if metric in known), "")
    bars = [bar for bar in found if bar.value.metric == metric]
    if bars:
        spread = ", with intervals of 95 %" if is_ratio else ", median and range"
        has_spread = any(bar.value.low is not None for bar in bars)
        what = _RATES.get(metric, metric)
        label = ("ratio of " if is_ratio and metric in _RATES else "") + what + spread * has_spread
        _draw(path, bars, title=title, label=label, start=1.0 if is_ratio else 0.0)
    return bool(bars)


def _draw(path: Path, bars: Sequence[_Bar], *, title: str, label: str, start: float) -> None:
    """Draw bars, grouped by place, each with its figure."""
    from matplotlib.figure import Figure

    places = list(dict.fromkeys(bar.place for bar in bars))
    series = list(dict.fromkeys(bar.series for bar in bars))
    # A place is followed by a gap.
    rows = sorted(bars, key=lambda bar: places.index(bar.place))
    at = [row + places.index(bar.place) for row, bar in enumerate(rows)]
    height = 1.6 + _ROW_INCHES * (at[-1] + len(series))
    # Without pyplot no window system is involved and no figure needs closing.
    figure = Figure(figsize=(9.0, height), dpi=100, layout="constrained")
    axes = figure.subplots()
    for name in series:
        mine = [(y, bar.value) for y, bar in zip(at, rows, strict=True) if bar.series == name]
        _bars(axes, mine, name, start)
    ends = [end for bar in bars for end in _ends(bar.value)]
    if min(ends) > 0 and max(ends) > _LOG_FROM * min(ends):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.15)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    middles = [[y for y, bar in zip(at, rows, strict=True) if bar.place == p] for p in places]
    names = [textwrap.fill(place, _LABEL_WIDTH) for place in places]
    axes.set_yticks([sum(ys) / len(ys) for ys in middles], names, fontsize="small")
    axes.invert_yaxis()
    axes.set_xlabel(label)
    figure.suptitle(textwrap.fill(title, 90), fontsize="large")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    figure.savefig(path)


def _bars(axes: Any, mine: Sequence[tuple[float, Value]], name: str, start: float) -> None:
    values = [value for _, value in mine]
    drawn = axes.barh(
        [y for y, _ in mine],
        [value.value - start for value in values],
        left=start,
        height=0.8,
        label=name,
        xerr=[
            [max(0.0, value.value - _ends(value)[0]) for value in values],
            [max(0.0, _ends(value)[1] - value.value) for value in values],
        ],
        capsize=3,
    )
    labels = [f"{value.value:.3f}" if start else f"{value.value:.3g}" for value in values]
    axes.bar_label(drawn, labels, padding=6, fontsize="small")


def _ends(value: Value) -> tuple[float, float]:
    low, high = value.low, value.high
    return (value.value if low is None else low), (value.value if high is None else high)
