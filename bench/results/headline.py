"""The table of measurements in README.md, from kept data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from bench.pages.markdown import table
from bench.pairs import Ratio
from bench.results.kept import Kept
from bench.results.schema import PLAIN, from_lines
from bench.results.tables import Cell, cells_of

_ONE, _FOUR = "one stream, to plain (95 %)", "four streams, to plain (95 %)"
_COUNTS: Final = (1, 4)
# The cells of equal cores that are shown: those of the larger pair with this number of cores.
_PAIR, _CORES = "real", 2


def headline(folder: Path, equal_cores: str) -> str:
    """Returns the table. equal_cores: name of the result of that suite in the folder."""
    cells = cells_of(from_lines((folder / equal_cores).read_bytes()))
    rows = [*_equal_cores(cells), *_another_device(folder), *_beside_llama(folder)]
    return table(("what", "against", "one stream", "four streams"), rows)


def _equal_cores(cells: Sequence[Cell]) -> Iterator[tuple[str, ...]]:
    """Yield rows of equal cores, with the workloads that were measured."""
    shown = [cell for cell in cells if (cell.pair, cell.num_cores) == (_PAIR, _CORES)]
    found = (cell for cell in shown if cell.num_streams in _COUNTS and cell.ratio(PLAIN))
    kinds = dict.fromkeys(cell.workload for cell in found)

    def row(against: str, ratio: Callable[[Cell], Ratio | None]) -> tuple[str, ...]:
        medians = {
            (cell.workload, cell.num_streams): f"{made.median:.2f}"
            for cell in shown
            if (made := ratio(cell)) is not None
        }
        by_count = [[medians.get((kind, count), "-") for kind in kinds] for count in _COUNTS]
        return (
            f"{_CORES} cores, as it comes: {', '.join(kinds)}",
            against,
            *(", ".join(each) for each in by_count),
        )

    if kinds:
        yield row("plain, the same cores", lambda cell: cell.ratio(PLAIN))
        if any(cell.best_llama for cell in shown):
            against = "llama.cpp's server in its best mode, the same cores"
            yield row(against, lambda cell: cell.ratio(cell.best_llama))


def _another_device(folder: Path) -> Iterator[tuple[str, ...]]:
    for name, file, last, more in (
        ("EPYC", "speed-real-pair.jsonl", "summaries", (0,)),
        ("Xeon", "speed-real-pair-xeon.jsonl", "whole file edit", ()),
    ):
        kept, kinds = Kept(folder / file), ("code", "code edit", "JSON by schema", "chat", last)
        yield (
            f"a core more for a draft, {name}: {', '.join(kinds).replace(' by schema', '')}",
            "plain without it",
            *(
                ", ".join(str(kept.found(of, kind, *more)) for kind in kinds)
                for of in (_ONE, _FOUR)
            ),
        )


def _beside_llama(folder: Path) -> Iterator[tuple[str, ...]]:
    cost = Kept(folder / "cost.jsonl")
    ratios = (f"{cost.found('mesh to bare (range)', count):.2f}" for count in _COUNTS)
    yield ("the mesh, plain (SmolLM2-135M)", "a bare llama.cpp loop, one thread each", *ratios)
    plain = Kept(folder / "plain-real-pair.jsonl")
    columns = ("1 stream", "4 streams")
    ours, theirs = (
        [plain.found(column, system) for column in columns]
        for system in ("airdraft, plain", "llama.cpp's server, plain")
    )
    yield (
        "kernels and batches, plain",
        "llama.cpp's server, compiled here, one thread each",
        *(f"{a / b:.2f}" for a, b in zip(ours, theirs, strict=True)),
    )
