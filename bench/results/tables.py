"""Tables of a result of `equal-cores`: figures of every way, and ratios of what comes by itself."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean, median
from typing import Final

from bench.pages.markdown import table
from bench.pairs import Ratio, paired_ratio
from bench.results.schema import AS_IT_COMES, PLAIN, Cores, Line, Run, Skipped, Start, Turn

# Of lines that are no rows of tables.
_WIDTH: Final = 118
# Cells of this workload are for their first tokens; their answers are too short to compare speeds.
_READING: Final = "long-prompt"
_LABELS: Final = {"real": "1.5B, 0.5B", "default": "SmolLM2", "code-edit": "edits", "json": "JSON"}


@dataclass(frozen=True, slots=True)
class Cell:
    """The turns of a cell, by way, in their order. own: ways of airdraft. starts: those of fresh
    meshes, of airdraft as it comes and of the best other way."""

    name: str
    turns: Mapping[str, Sequence[Turn]]
    own: Sequence[str]
    starts: Mapping[str, Sequence[Start]]

    @property
    def pair(self) -> str:
        return self.name.split("/")[0]

    @property
    def workload(self) -> str:
        """The workload's name as tables have it."""
        kind = self.name.split("/")[1]
        return _LABELS.get(kind, kind.replace("-", " "))

    @property
    def is_reading(self) -> bool:
        return self.name.split("/")[1] == _READING

    @property
    def num_streams(self) -> int:
        return int(self.name.split("/")[2])

    @property
    def num_cores(self) -> int:
        return int(self.name.split("/")[3])

    @property
    def label(self) -> str:
        pair = _LABELS.get(self.pair, self.pair)
        streams = f"{self.num_streams} stream{'s' * (self.num_streams > 1)}"
        return f"{pair}: {self.workload}, {streams}, {_cores(self.num_cores)}"

    def speed(self, way: str) -> float:
        """Returns a way's median tokens/s while all streams decode."""
        return median(turn.tokens_per_s for turn in self.turns[way])

    @property
    def best_other(self) -> str:
        """The fastest of airdraft's other ways; "" if none ran."""
        return self._best(way for way in self.turns if way in self.own and way != AS_IT_COMES)

    @property
    def best_llama(self) -> str:
        """The fastest mode of llama.cpp's server; "" if none ran."""
        return self._best(way for way in self.turns if way not in self.own)

    def _best(self, ways: Iterator[str]) -> str:
        return max(ways, key=self.speed, default="")

    def ratio(self, other: str) -> Ratio | None:
        """Returns the speed of what comes by itself to that of another way, in pairs of turns."""
        if self.is_reading:
            return None
        both = zip(self.turns.get(other, ()), self.turns.get(AS_IT_COMES, ()), strict=False)
        return _ratio([(a.tokens_per_s, b.tokens_per_s) for a, b in both])

    @property
    def start_ratio(self) -> Ratio | None:
        """The tokens of the first seconds of a mesh as it comes to those of the best way."""
        other = next((way for way in self.starts if way != AS_IT_COMES), "")
        both = zip(self.starts.get(other, ()), self.starts.get(AS_IT_COMES, ()), strict=False)
        return _ratio([(a.num_tokens, b.num_tokens) for a, b in both])


def _ratio(both: Sequence[tuple[float, float]]) -> Ratio | None:
    known = [pair for pair in both if min(pair) > 0.0]
    return paired_ratio(known) if known else None


def cells_of(lines: Sequence[Line]) -> list[Cell]:
    """Returns the cells of a result in which a turn was measured, in their order."""
    own = [way for run in _runs(lines) for way in run.own]
    turns: dict[str, dict[str, list[Turn]]] = {}
    starts: dict[str, dict[str, list[Start]]] = {}
    for line in lines:
        if isinstance(line, Turn):
            turns.setdefault(line.cell, {}).setdefault(line.way, []).append(line)
        elif isinstance(line, Start):
            starts.setdefault(line.cell, {}).setdefault(line.way, []).append(line)
    return [Cell(name, ways, own, starts.get(name, {})) for name, ways in turns.items()]


def _runs(lines: Sequence[Line]) -> list[Run]:
    return [line for line in lines if isinstance(line, Run)]


def section(lines: Sequence[Line]) -> str:
    """Returns a result as Markdown: how it was made, its tables, and what was not measured."""
    cells = cells_of(lines)
    if not cells:
        return "No run is kept yet.\n"
    parts = [
        *_made(lines),
        "Tokens/s while all streams decode, and milliseconds of processor time a token:",
        _speeds(cells),
        _prose(
            "Tokens/s of airdraft as it comes, to those of the fastest of its other ways, of its "
            "plain mode and of the fastest mode of llama.cpp's server: medians of paired turns, "
            "with intervals of 95 %. First tokens are those of airdraft as it comes and of that "
            "mode. *Start* compares the tokens of the first 10 s of fresh meshes, as they come and "
            "in the fastest other way:"
        ),
        _ratios(cells),
        *_found(lines, cells),
        *_bounds(_runs(lines), cells),
    ]
    skipped = [line for line in lines if isinstance(line, Skipped)]
    if reasons := dict.fromkeys(f"- {line.way}, {line.cell}: {line.reason}" for line in skipped):
        parts += ["Not run:", "\n".join(reasons)]
    return "\n\n".join(parts) + "\n"


def _made(lines: Sequence[Line]) -> Iterator[str]:
    by_machine: dict[str, list[Run]] = {}
    for run in _runs(lines):
        by_machine.setdefault(_machine_of(run), []).append(run)
    for told, runs in by_machine.items():
        for run in runs:
            yield f"Made {run.made_at[:10]} at {run.commit or 'no commit'} by:"
            yield "\n".join(_shell(run.command))
        yield _prose(told)
    ways = {way: words for run in _runs(lines) for way, words in run.ways.items()}
    yield "\n".join(f"- *{way}*: {f'`{ways[way]}`' if ways[way] else 'no options'}" for way in ways)
    if at_once := [line.at_once for line in lines if isinstance(line, Cores)]:
        yield f"All cores at once did {min(at_once):.1f} times what one does alone, at least."


def _machine_of(run: Run) -> str:
    machine = run.machine
    flags = f", {', '.join(machine.flags)}" if machine.flags else ""
    return (
        f"Machine: {machine.num_cores} cores of {machine.processor}{flags}; "
        f"{machine.memory_bytes / 2**30:.1f} GiB; Linux {machine.kernel}; Python "
        f"{machine.python}; {'; '.join(run.versions)}."
    )


def _speeds(cells: Sequence[Cell]) -> str:
    ways = list(dict.fromkeys(way for cell in cells for way in cell.turns))

    def figures(cell: Cell, way: str) -> str:
        if way not in cell.turns:
            return "-"
        cpu_s = median(turn.cpu_s_a_token for turn in cell.turns[way])
        return f"{_short(cell.speed(way))}; {_short(cpu_s * 1e3)}"

    rows = ([cell.label, *(figures(cell, way) for way in ways)] for cell in cells)
    return table(["cell", *ways], rows)


def _ratios(cells: Sequence[Cell]) -> str:
    def first_ms(cell: Cell, way: str) -> str:
        turns = cell.turns.get(way)
        return f"{median(turn.first_token_s for turn in turns) * 1e3:,.0f}" if turns else "-"

    rows = [
        (
            cell.label,
            _shown(cell.ratio(cell.best_other), cell.best_other),
            _shown(cell.ratio(PLAIN)),
            _shown(cell.ratio(cell.best_llama), cell.best_llama.split(", ")[-1]),
            f"{first_ms(cell, AS_IT_COMES)}, {first_ms(cell, cell.best_llama)} ms",
            _shown(cell.start_ratio),
        )
        for cell in cells
    ]
    head = ("cell", "to the best other", "to plain", "to llama.cpp's best", "first tokens", "start")
    return table(head, rows)


def _found(lines: Sequence[Line], cells: Sequence[Cell]) -> Iterator[str]:
    said = []
    for what, ratios in (
        ("to the best other way", [cell.ratio(cell.best_other) for cell in cells]),
        ("of *start*", [cell.start_ratio for cell in cells]),
    ):
        if known := [ratio.median for ratio in ratios if ratio is not None]:
            mean = f"{geometric_mean(known):.3f} over {len(known)} cells"
            said.append(f"The geometric mean of the ratios {what} is {mean}.")
    turns = [line for line in lines if isinstance(line, Turn)]
    if num_texts := sum(turn.num_compared for turn in turns):
        num_other = sum(turn.num_other_texts for turn in turns)
        said.append(f"Of {num_texts:,} texts with guesses {num_other} differ from those without.")
    if num_failed := sum(turn.num_failed for turn in turns):
        num_texts = sum(turn.num_texts for turn in turns)
        said.append(f"{num_failed} of {num_texts:,} requests failed.")
    if said:
        yield _prose(" ".join(said))


def _bounds(runs: Sequence[Run], cells: Sequence[Cell]) -> Iterator[str]:
    """Yield what cores of one memory cannot give, with a table, if there is data for it."""
    read = {int(count): speed for run in runs for count, speed in run.read_bytes_per_s.items()}
    num_bytes = {pair: size for run in runs for pair, size in run.file_bytes.items()}
    rows = []
    for cell in cells:
        is_alone = cell.num_streams == 1 and PLAIN in cell.turns and not cell.is_reading
        if is_alone and cell.pair in num_bytes and cell.num_cores in read:
            most = read[cell.num_cores] / num_bytes[cell.pair]
            plain = cell.speed(PLAIN)
            figures = (read[cell.num_cores] / 1e9, num_bytes[cell.pair] / 1e9, most, plain)
            rows.append((cell.label, *map(_short, figures), f"{plain / most:.2f}"))
    if rows:
        yield _prose(
            "What cores of one memory cannot give: a pass reads every weight once, for all streams "
            "together. So there are at most as many passes a second as the cores read from memory "
            "(sums over an array, the best of three), over the bytes of the file. More cores raise "
            "this no further once they read as fast as the memory gives, and the steps of a draft "
            "on the same machine read from the same memory. Only tokens that share a pass come "
            "faster: guessed ones, and those of several streams."
        )
        head = ("cell", "read, GB/s", "file, GB", "passes/s at most", "plain tokens/s", "of that")
        yield table(head, rows)


def _cores(count: int) -> str:
    return f"{count} core{'s' * (count > 1)}"


def _shown(ratio: Ratio | None, way: str = "") -> str:
    if ratio is None:
        return "-"
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) {way}".strip()


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _prose(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_on_hyphens=False, break_long_words=False)


def _shell(command: str) -> Iterator[str]:
    """A command as a code block, continued before an option where it is too long for a line.

    A list that is too long itself is continued behind a comma, where the shell joins both lines.
    """
    first, *options = command.split(" --")
    line = f"    {first}"
    for option in options:
        if len(line) + len(option) > _WIDTH - len(" -- \\"):
            yield f"{line} \\"
            line = "     "
        line += f" --{option}"
        while len(line) > _WIDTH - len(" \\"):
            end = line.rindex(",", 0, _WIDTH - len("\\")) + 1
            yield f"{line[:end]}\\"
            line = f"    {line[end:]}"
    yield line
