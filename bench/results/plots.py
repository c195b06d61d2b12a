"""PNG pictures of a result: ratios with their intervals, and tokens/s. Needs matplotlib.

matplotlib is loaded only when something is drawn. The names of suites contain the words emulated or
simulated where these apply, and pictures have these names as titles.
"""

from __future__ import annotations

import importlib.util
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.results.schema import Cell, Results, Value

# The first of these metrics that a suite has is drawn.
_RATES = {"decode tokens/s": "tokens/s while all decode", "tokens/s": "tokens/s"}
_ROW_INCHES = 0.26
_LABEL_WIDTH = 44
_QUICK = ", quick run"
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


def plot_all(results: Results, folder: Path) -> dict[str, list[Path]]:
    """Draw every picture of a result into an existing folder; return the files by suite."""
    made: dict[str, list[Path]] = {}
    for suite in dict.fromkeys(cell.suite for cell in results.cells):
        cells = [cell for cell in results.cells if cell.suite == suite]
        name = re.sub(r"[^a-z0-9]+", "-", suite.lower()).strip("-")
        for kind, plot in (("ratios", plot_ratios), ("rates", plot_rates)):
            path = folder / f"{name}-{kind}.png"
            if plot(path, suite, cells, is_quick=results.is_quick):
                made.setdefault(suite, []).append(path)
    return made


def plot_ratios(path: Path, suite: str, cells: Sequence[Cell], *, is_quick: bool) -> bool:
    """Draw a suite's ratios, a bar from 1 for each place and reference. False if it has none."""
    chosen = [cell for cell in cells if cell.reference and cell.ratios]
    metric = _metric([value for cell in chosen for value in cell.ratios])
    systems = list(dict.fromkeys(cell.system for cell in chosen))
    system = systems[0] if len(systems) == 1 else ""
    bars = [
        _Bar(cell.place, f"{'beside' if system else cell.system + ' /'} {cell.reference}", value)
        for cell in chosen
        for value in cell.ratios
        if value.metric == metric
    ]
    if not bars:
        return False
    references = dict.fromkeys(cell.reference for cell in chosen)
    others = next(iter(references)) if len(references) == 1 else "others"
    title = f"{suite}: {system or 'systems'} beside {others}{_QUICK if is_quick else ''}"
    has_interval = any(bar.value.low is not None for bar in bars)
    what = f"ratio of {_RATES[metric]}" if metric in _RATES else metric
    label = f"{what}{', with intervals of 95 %' * has_interval}"
    _draw(path, bars, title=title, label=label, start=1.0)
    return True


def plot_rates(path: Path, suite: str, cells: Sequence[Cell], *, is_quick: bool) -> bool:
    """Draw a suite's tokens/s by system and place. Returns False if it has none."""
    chosen = [cell for cell in cells if not cell.reference]
    metric = _metric([v for cell in chosen for v in cell.values if v.metric in _RATES])
    bars = [
        _Bar(cell.place, cell.system, value)
        for cell in chosen
        for value in cell.values
        if value.metric == metric
    ]
    if not bars:
        return False
    systems = dict.fromkeys(bar.series for bar in bars)
    system = f": {next(iter(systems))}" if len(systems) == 1 else ""
    title = f"{suite}{system}{_QUICK if is_quick else ''}"
    has_range = any(bar.value.low is not None for bar in bars)
    label = f"{_RATES[metric]}{', median and range' * has_range}"
    _draw(path, bars, title=title, label=label, start=0.0)
    return True


def _metric(values: Sequence[Value]) -> str:
    known = dict.fromkeys(value.metric for value in values)
    return next((metric for metric in (*_RATES, *known) if metric in known), "")


def _draw(path: Path, bars: Sequence[_Bar], *, title: str, label: str, start: float) -> None:
    """Draw bars, grouped by place, each with its figure."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    places = list(dict.fromkeys(bar.place for bar in bars))
    series = list(dict.fromkeys(bar.series for bar in bars))
    colours = mpl.colormaps["tab10"]
    by_place = {place: [bar for bar in bars if bar.place == place] for place in places}
    rows: dict[str, float] = {}
    at = 0.0
    drawn: list[tuple[_Bar, float]] = []
    for place, mine in by_place.items():
        rows[place] = at + (len(mine) - 1) / 2
        for bar in mine:
            drawn.append((bar, at))
            at += 1.0
        # The gap between places is wider if they have several bars.
        at += 0.4 if len(mine) == 1 else 0.9
    num_legend_rows = (len(series) + 1) // 2 if len(series) > 1 else 0
    height = 1.6 + _ROW_INCHES * (at + num_legend_rows)
    # Without pyplot no window system is involved and no figure needs closing.
    figure = Figure(figsize=(9.0, height), dpi=100, layout="constrained")
    axes = figure.subplots()
    _axis(axes, [bar.value for bar in bars], start)
    for bar, y in drawn:
        colour = colours(series.index(bar.series) % 10)
        _bar(axes, bar.value, y, colour, start)
    names = [textwrap.fill(place, _LABEL_WIDTH) for place in rows]
    axes.set_yticks(list(rows.values()), names, fontsize="small")
    axes.set_ylim(drawn[-1][1] + 0.8, -0.8)
    axes.set_xlabel(label)
    figure.suptitle(textwrap.fill(title, 90), fontsize="large")
    if len(series) > 1:
        handles = [
            mpl.patches.Patch(color=colours(k % 10), label=name) for k, name in enumerate(series)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize="small")
    figure.savefig(path)


def _axis(axes: Any, values: Sequence[Value], start: float) -> None:
    """Set the scale, with room for figures at the ends of bars."""
    lows = [value.value if value.low is None else value.low for value in values]
    highs = [value.value if value.high is None else value.high for value in values]
    least, most = min([*lows, start or min(lows)]), max([*highs, start])
    if least > 0 and most / least > _LOG_FROM:
        from matplotlib import ticker

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.set_xlim(least / 1.3 if start else least / 2, most * 2)
    elif start:
        span = max(most - least, 0.1)
        axes.set_xlim(least - 0.12 * span, most + 0.3 * span)
    else:
        axes.set_xlim(0, most * 1.15)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    if start:
        axes.axvline(start, color="black", linewidth=1)


def _bar(axes: Any, value: Value, y: float, colour: Any, start: float) -> None:
    """Draw a bar, its interval, and its figure beside it."""
    axes.barh(y, value.value - start, left=start, height=0.8, color=colour)
    end = value.value
    if start:
        # A ratio of 1 has a bar of no length, so a dot shows its colour.
        dot = {"markeredgecolor": "black", "markersize": 6, "zorder": 3}
        axes.plot(value.value, y, "o", markerfacecolor=colour, **dot)
    if value.low is not None and value.high is not None:
        around = [[max(0.0, value.value - value.low)], [max(0.0, value.high - value.value)]]
        axes.errorbar(value.value, y, xerr=around, color="black", capsize=3, linewidth=1)
        end = value.high
    digits = 3 if start else 1 if value.value < 100 else 0
    axes.annotate(
        f"{value.value:.{digits}f}",
        (max(end, start), y),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize="small",
    )
