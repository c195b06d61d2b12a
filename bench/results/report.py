"""A result of `peers` as Markdown: a table of figures and one of ratios. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from bench.harness.report import head, row
from bench.results.schema import Cell, Machine, Results, Value

# The other metrics are only in the JSON, since tables would have too many columns.
_SHOWN = ("decode tokens/s", "tokens/s", "first token p50", "time a token p95", "goodput")
_MAIN = _SHOWN[0]
# Of lines that are no rows of tables.
_WIDTH = 118


def markdown(results: Results) -> str:
    """Return a result as Markdown."""
    own = [cell for cell in results.cells if not cell.reference]
    pairs = [cell for cell in results.cells if cell.reference]
    lines = [
        f"Made {results.made_at} by `{results.command}` at {results.commit or 'no commit'}"
        f"{' (quick: few turns, wide intervals)' if results.is_quick else ''}.",
        "",
        _machine_line(results),
        "",
    ]
    for system in results.systems:
        settings = f": {system.settings}" if system.settings else ""
        lines.append(f"- {system.name} ({system.version}){settings}")
    lines += ["", head("where", "system", *_SHOWN, "")]
    for cell in own:
        shown = (_figure(_of(cell.values, metric)) for metric in _SHOWN)
        lines.append(row(cell.place, cell.system, *shown, cell.note))
    titles = "tokens/s (95 %)", "while all decode (95 %)"
    lines += ["", head("where", "system", "beside", *titles)]
    for cell in pairs:
        shown = (_ratio(_of(cell.ratios, metric)) for metric in ("tokens/s", _MAIN))
        lines.append(row(cell.place, cell.system, cell.reference, *shown))
    if results.skipped:
        lines += ["", "Not run, or failed:", "", *(f"- {reason}" for reason in results.skipped)]
    return "\n".join(lines) + "\n"


def section(results: Results) -> str:
    """Return a short report: the table of the first of our systems beside all others."""
    lines = [
        f"Made {results.made_at[:10]} by"
        f"{' (quick: few turns, so intervals say little)' if results.is_quick else ''}:",
        "",
        *(line for command in results.command.split("; ") for line in _shell(command)),
        "",
        *textwrap.wrap(_machine_line(results), _WIDTH),
        "",
    ]
    # Only the first of our systems, because a reader compares one of them with the others.
    first, *others = dict.fromkeys(cell.system for cell in results.cells if cell.reference)
    lines += _beside(results.cells, first)
    if others:
        left = ", ".join(f"*{name}*" for name in others)
        lines += ["", f"`python -m bench report` of the result has all rows, {left} too."]
    return "\n".join(lines) + "\n"


def _machine_line(results: Results) -> str:
    machine: Machine = results.machine
    flags = f", {', '.join(machine.flags)}" if machine.flags else ""
    at_once = results.cores_at_once
    shared = ""
    if at_once is not None and machine.num_cores > 1:
        shared = (
            f" All {machine.num_cores} cores at once did {at_once:.1f} times what one does alone, "
            "at least."
        )
    return (
        f"Machine: {machine.num_cores} cores of {machine.processor}{flags}; "
        f"{machine.memory_bytes / 2**30:.1f} GiB; Linux {machine.kernel}; Python {machine.python}."
        f"{shared}"
    )


def _beside(cells: Sequence[Cell], system: str) -> Iterator[str]:
    """Yield a table of a system's ratios: a row for each place, a column for each reference."""
    pairs = [cell for cell in cells if cell.reference and cell.system == system]
    found = {(cell.place, cell.reference): _of(cell.ratios, _MAIN) for cell in pairs}
    own = [cell for cell in cells if not cell.reference and cell.system == system]
    alone = {cell.place: _of(cell.values, _MAIN) for cell in own}
    others = list(dict.fromkeys(cell.reference for cell in pairs))
    yield head(f"{system}: {_MAIN}", "", *(f"to {other}" for other in others))
    for place in dict.fromkeys(cell.place for cell in pairs):
        shown = (_ratio(found.get((place, other))) for other in others)
        yield row(place, _figure(alone.get(place)), *shown)


def _of(values: Sequence[Value], metric: str) -> Value | None:
    return next((value for value in values if value.metric == metric), None)


def _figure(value: Value | None) -> str:
    if value is None:
        return "-"
    if value.unit == "s":
        ms = value.value * 1e3
        return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.2f} ms"
    return f"{value.value:.1f}" if value.value >= 10 else f"{value.value:.2f}"


def _ratio(value: Value | None) -> str:
    return "-" if value is None else f"{value.value:.2f} ({value.low:.2f} to {value.high:.2f})"


def _shell(command: str) -> Iterator[str]:
    """A command as a code block, continued before an option where it is too long for a line."""
    first, *options = command.split(" --")
    line = f"    {first}"
    for option in options:
        if len(line) + len(option) > _WIDTH - len(" -- \\"):
            yield f"{line} \\"
            line = "     "
        line += f" --{option}"
    yield line
