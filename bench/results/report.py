"""A result as Markdown: for each suite a table of figures and one of ratios. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from bench.results.schema import Cell, Machine, Results, Value

_FIRST = ("decode tokens/s", "tokens/s", "first token p50", "time a token p95", "goodput")
# Only in the JSON, since tables would have too many columns.
_HIDDEN = {
    *("first token p95", "first token p99", "time a token p50", "time a token p99"),
    "processor time a token",
}
# Of lines that are no rows of tables.
_WIDTH = 118
_RATIO_TITLES = {"tokens/s": "tokens/s", "decode tokens/s": "while all decode"}


def markdown(results: Results) -> str:
    """Return a result as Markdown."""
    lines = [
        f"Made {results.made_at} by `{results.command}` at {results.commit or 'no commit'}"
        f"{' (quick: few turns, wide intervals)' if results.is_quick else ''}.",
        "",
        machine_line(results.machine) + _cores_line(results),
        "",
    ]
    for system in results.systems:
        settings = f": {system.settings}" if system.settings else ""
        lines.append(f"- {system.name} ({system.version}){settings}")
    for suite in dict.fromkeys(cell.suite for cell in results.cells):
        cells = [cell for cell in results.cells if cell.suite == suite]
        lines += ["", f"## {suite}", "", *_tables(cells)]
    if results.skipped:
        lines += ["", "Not run, or failed:", "", *(f"- {reason}" for reason in results.skipped)]
    return "\n".join(lines) + "\n"


def machine_line(machine: Machine) -> str:
    flags = f", {', '.join(machine.flags)}" if machine.flags else ""
    return (
        f"Machine: {machine.num_cores} cores of {machine.processor}{flags}; "
        f"{machine.memory_bytes / 2**30:.1f} GiB; Linux {machine.kernel}; Python {machine.python}."
    )


def _cores_line(results: Results) -> str:
    at_once, num_cores = results.cores_at_once, results.machine.num_cores
    if at_once is None or num_cores == 1:
        return ""
    return f" All {num_cores} cores at once did {at_once:.1f} times what one does alone, at least."


def _tables(cells: Sequence[Cell]) -> Iterator[str]:
    own = [cell for cell in cells if not cell.reference]
    known = dict.fromkeys(value.metric for cell in own for value in cell.values)
    metrics = [metric for metric in _FIRST if metric in known]
    metrics += [metric for metric in known if metric not in (*_FIRST, *_HIDDEN)]
    if own:
        yield "| where | system | " + " | ".join(metrics) + " | |"
        yield "|---|---|" + "---|" * len(metrics) + "---|"
    for cell in own:
        by_metric = {value.metric: value for value in cell.values}
        shown = [_figure(by_metric.get(metric)) for metric in metrics]
        yield f"| {cell.place} | {cell.system} | {' | '.join(shown)} | {cell.note} |"
    pairs = [cell for cell in cells if cell.reference]
    if own and pairs:
        yield ""
    yield from _ratio_table(pairs)


def _ratio_table(pairs: Sequence[Cell]) -> Iterator[str]:
    if not pairs:
        return
    values = [value for cell in pairs for value in cell.ratios]
    known = dict.fromkeys(value.metric for value in values)
    metrics = [metric for metric in _RATIO_TITLES if metric in known]
    metrics += [metric for metric in known if metric not in _RATIO_TITLES]
    interval = " (95 %)" if any(value.low is not None for value in values) else ""
    titles = [_RATIO_TITLES.get(metric, metric) + interval for metric in metrics]
    # Few cells have notes; without any, the table has no column for them.
    has_notes = any(cell.note for cell in pairs)
    yield f"| where | system | beside | {' | '.join(titles)} |{' |' if has_notes else ''}"
    yield "|---|---|---|" + "---|" * (len(titles) + has_notes)
    for cell in pairs:
        by_metric = {value.metric: value for value in cell.ratios}
        shown = [_ratio(by_metric.get(metric)) for metric in metrics]
        note = f" {cell.note} |" if has_notes else ""
        yield f"| {cell.place} | {cell.system} | {cell.reference} | {' | '.join(shown)} |{note}"


def _beside(cells: Sequence[Cell], system: str) -> list[str]:
    """Return a table of a system's ratios: a row for each place, a column for each reference."""
    own = [cell for cell in cells if cell.reference and cell.system == system]
    alone = {
        cell.place: cell.values for cell in cells if not cell.reference and cell.system == system
    }
    metric = _main_metric([value.metric for cell in own for value in cell.ratios])
    others = list(dict.fromkeys(cell.reference for cell in own))
    found = {
        (cell.place, cell.reference): value
        for cell in own
        for value in cell.ratios
        if value.metric == metric
    }
    columns = " | ".join(f"to {other}" for other in others)
    table = [f"| {system}: {metric} | | {columns} |", "|---|---|" + "---|" * len(others)]
    for place in dict.fromkeys(cell.place for cell in own):
        by_metric = {value.metric: value for value in alone.get(place, ())}
        shown = [_ratio(found.get((place, other))) for other in others]
        table.append(f"| {place} | {_figure(by_metric.get(metric))} | {' | '.join(shown)} |")
    return table


def _main_metric(metrics: Sequence[str]) -> str:
    """Return the first of the metrics in the order of tables; "" if there is none."""
    return min(metrics, key=lambda m: _FIRST.index(m) if m in _FIRST else len(_FIRST), default="")


def _figure(value: Value | None) -> str:
    if value is None:
        return "-"
    if value.unit in ("s", "ms"):
        ms = value.value * (1e3 if value.unit == "s" else 1.0)
        return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.2f} ms"
    return f"{value.value:.1f}" if value.value >= 10 else f"{value.value:.2f}"


def _ratio(value: Value | None) -> str:
    if value is None:
        return "-"
    interval = "" if value.low is None else f" ({value.low:.2f} to {value.high:.2f})"
    return f"{value.value:.2f}{interval}"


def _shell(command: str) -> Iterator[str]:
    """A command as a code block, continued before an option where it is too long for a line."""
    head, *options = command.split(" --")
    line = f"    {head}"
    for option in options:
        if len(line) + len(option) > _WIDTH - len(" -- \\"):
            yield f"{line} \\"
            line = "     "
        line += f" --{option}"
    yield line


def section(results: Results) -> str:
    """Return a short report: for each suite the table of its first system beside all others."""
    lines = [
        f"Made {results.made_at[:10]} by"
        f"{' (quick: few turns, so intervals say little)' if results.is_quick else ''}:",
        "",
        *(line for command in results.command.split("; ") for line in _shell(command)),
        "",
        *textwrap.wrap(machine_line(results.machine) + _cores_line(results), _WIDTH),
        "",
    ]
    suites = dict.fromkeys(cell.suite for cell in results.cells if cell.reference)
    for suite in suites:
        lines += [f"**{suite}**", ""] if len(suites) > 1 else []
        cells = [cell for cell in results.cells if cell.suite == suite]
        # Only the first of our systems, because a reader compares one of them with the others.
        first, *others = dict.fromkeys(cell.system for cell in cells if cell.reference)
        lines += [*_beside(cells, first), ""]
        if others:
            left = ", ".join(f"*{name}*" for name in others)
            lines += [f"`python -m bench report` of the result has all rows, {left} too.", ""]
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"
