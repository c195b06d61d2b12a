"""`python -m bench equal-cores`: airdraft as it comes beside all other ways on the same cores."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from statistics import median
from typing import Final

import click

from airdraft.nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET
from bench import pairs
from bench.cores import cores_at_once, read_bytes_per_s
from bench.equal_cores.ways import AIRDRAFT, Place, Way, file_of, llama_ways, wait_for_drafts
from bench.harness.fleet import FleetError
from bench.load.figures import Figures
from bench.load.versus import Load, in_turns, tokens_within
from bench.load.workloads import PLAIN_NAMES, workload
from bench.options import at_least, listed
from bench.results.making import this_commit, this_machine, typed_command
from bench.results.schema import AS_IT_COMES, PLAIN, Cores, Line, Run, Skipped, Start, Turn, to_line

PAIRS: Final = {
    "real": ("qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b"),
    "default": (DEFAULT_TARGET, DEFAULT_DRAFT),
    "toy": ("toy:1", "toy:0.8"),
}
_CELLS: Final = (
    *("real/code/1/2", "real/chat/1/2", "real/code-edit/1/2", "real/json/1/2"),
    *("real/long-prompt/1/2", "real/code/4/2", "real/chat/4/2", "real/code/16/2"),
    *("real/code/1/1", "real/chat/1/1", "real/code-edit/1/1"),
    *("default/chat/1/2", "default/copy/1/2", "default/chat/4/2", "default/copy/4/2"),
)
_STARTS: Final = ("real/code/1/2", "real/chat/1/2", "real/code/4/2", "default/chat/1/2")
_WORKLOADS: Final = (*PLAIN_NAMES, "json")
_NAME: Final = re.compile(
    r"(?P<pair>\w+)/(?P<kind>[\w-]+)/(?P<streams>[1-9]\d{0,2})/(?P<cores>[1-9]\d{0,2})"
)
# What counts as the start of a mesh.
_START_S: Final = 10.0
Write = Callable[[Line], None]


@dataclass(frozen=True, slots=True)
class Cell:
    """A pair of models, a workload, a number of streams, and the number of cores of every way."""

    pair: str
    workload: str
    num_streams: int
    num_cores: int

    def __str__(self) -> str:
        return f"{self.pair}/{self.workload}/{self.num_streams}/{self.num_cores}"

    @property
    def place(self) -> Place:
        cpus = sorted(os.sched_getaffinity(0))[: self.num_cores]
        return Place(*PAIRS[self.pair], self.num_streams, tuple(cpus))


def cell_of(text: str) -> Cell:
    """Returns a cell by its name. Raises click.BadParameter for one that cannot be measured."""
    match = _NAME.fullmatch(text)
    if match is None or match["pair"] not in PAIRS or match["kind"] not in _WORKLOADS:
        raise click.BadParameter(
            f"{text!r} is not PAIR/WORKLOAD/STREAMS/CORES with a pair of {', '.join(PAIRS)} and a "
            f"workload of {', '.join(_WORKLOADS)}"
        )
    return Cell(match["pair"], match["kind"], int(match["streams"]), int(match["cores"]))


@click.command("equal-cores")
@click.option(
    "--cells",
    type=listed(cell_of),
    default=",".join(_CELLS),
    show_default="fifteen cells",
    help="What to measure, as PAIR/WORKLOAD/STREAMS/CORES.",
)
@click.option(
    "--starts",
    type=listed(cell_of, or_none=True),
    default=",".join(_STARTS),
    help="Cells of which the first 10 s of fresh meshes are measured, too.",
)
@click.option(
    "--ways",
    type=listed(or_none=True),
    default="",
    show_default="all",
    help="Run only ways whose names contain one of these parts.",
)
@at_least("--turns", 5, "Turns of all ways, in changing order.")
@at_least("--max-tokens", 128, "Most tokens of an answer.", least=2)
@at_least("--prompts", 2, "Prompts in a turn; at least one for each stream.")
@click.option(
    "--llama-server",
    type=click.Path(exists=True, dir_okay=False, executable=True, path_type=Path),
    help="Also run llama.cpp's server, compiled here (bench/METHODOLOGY.md).",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append the result to this file, as JSON lines.",
)
def equal_cores_command(
    cells: list[Cell],
    starts: list[Cell],
    ways: list[str],
    turns: int,
    max_tokens: int,
    prompts: int,
    llama_server: Path | None,
    out: Path | None,
) -> None:
    """Compare airdraft as it comes with all other ways on the same cores.

    In every cell each way serves the same requests over HTTP, in turns, and all its processes are
    bound to the same cores, of which it may use all. Texts of airdraft's ways are compared.

    \b
    Examples:
      python -m bench equal-cores --llama-server llama-server --out equal-cores.jsonl
      python -m bench equal-cores --cells default/chat/1/1 --starts= --turns 2
    """
    known = (*AIRDRAFT, *(llama_ways(llama_server) if llama_server is not None else ()))
    chosen = [way for way in known if not ways or any(part in way.name for part in ways)]
    if not chosen:
        names = ", ".join(way.name for way in known)
        raise click.UsageError(f"--ways: no name contains {', '.join(ways)}; ways: {names}")
    most = len(os.sched_getaffinity(0))
    if too_many := [str(cell) for cell in cells if cell.num_cores > most]:
        raise click.UsageError(f"--cells: {', '.join(too_many)}: {most} cores are here")
    with contextlib.ExitStack() as stack:
        file = None
        if out is not None:
            try:
                file = stack.enter_context(out.open("a", encoding="utf-8", buffering=1))
            except OSError as error:
                raise click.ClickException(f"{out}: {error.strerror}") from None

        def write(line: Line) -> None:
            # Lines are kept as they come, so that a run that is cut off is not lost.
            click.echo(to_line(line), nl=False)
            if file is not None:
                file.write(to_line(line))

        write(_run_of(cells, chosen))
        for cell in cells:
            made = workload(cell.workload)
            made = replace(made, max_tokens=min(max_tokens, made.max_tokens))
            load = Load(made, cell.num_streams, ceil(prompts / cell.num_streams))
            asyncio.run(_measure(cell, load, chosen, turns, cell in starts, write))


def _run_of(cells: Sequence[Cell], ways: Sequence[Way]) -> Run:
    counts = sorted({cell.num_cores for cell in cells})
    files = {cell.pair: Path(file_of(PAIRS[cell.pair][0])) for cell in cells}
    return Run(
        made_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=typed_command(),
        commit=this_commit(),
        machine=this_machine(),
        ways={way.name: way.shown for way in ways},
        own=tuple(way.name for way in ways if way.server is None),
        versions=tuple(dict.fromkeys(way.version for way in ways)),
        read_bytes_per_s={str(count): read_bytes_per_s(count) for count in counts},
        file_bytes={pair: path.stat().st_size for pair, path in files.items() if path.is_file()},
    )


async def _measure(
    cell: Cell, load: Load, ways: Sequence[Way], num_turns: int, has_start: bool, write: Write
) -> None:
    """Measure a cell: all ways in turns, and then the start of fresh meshes."""
    place = cell.place
    write(Cores(cell=str(cell), at_once=await asyncio.to_thread(cores_at_once)))
    by_name = {way.name: way for way in ways}
    with contextlib.ExitStack() as stack:
        sides = []
        for way in ways:
            try:
                side = await asyncio.to_thread(stack.enter_context, way.started(place))
                if way.server is None:
                    await asyncio.to_thread(wait_for_drafts, side)
                sides.append(side)
            except FleetError as error:
                write(Skipped(cell=str(cell), way=way.name, reason=str(error)))
        own = {side.name for side in sides if by_name[side.name].server is None}
        turns = await in_turns(sides, load, num_turns)
    by_turn = [dict(zip((s.name for s in sides), turn, strict=True)) for turn in turns]
    for number, figures in enumerate(by_turn):
        for name in figures:
            write(_turn(cell, number, name, figures, own))
    others = {
        name: median(turn[name].tokens_per_s for turn in by_turn) for name in own - {AS_IT_COMES}
    }
    if has_start and AS_IT_COMES in own and others:
        best = max(others, key=lambda name: others[name])
        try:
            await _starts(cell, load, [by_name[AS_IT_COMES], by_name[best]], num_turns, write)
        except FleetError as error:
            # Hours of other cells may follow.
            write(Skipped(cell=str(cell), way="start", reason=str(error)))


def _turn(
    cell: Cell, number: int, name: str, figures: Mapping[str, Figures], own: set[str]
) -> Turn:
    made = figures[name]
    has_plain = name in own - {PLAIN} and PLAIN in own
    both = zip(made.texts, figures[PLAIN].texts, strict=True) if has_plain else ()
    compared = [text == plain for text, plain in both if text is not None and plain is not None]
    return Turn(
        cell=str(cell),
        turn=number,
        way=name,
        tokens_per_s=made.tokens_per_s,
        first_token_s=made.first_token_s,
        cpu_s_a_token=made.cpu_s_a_token,
        num_texts=len(made.texts),
        num_failed=made.num_failed,
        error=made.error,
        num_compared=len(compared),
        num_other_texts=len(compared) - sum(compared),
    )


async def _starts(
    cell: Cell, load: Load, ways: Sequence[Way], num_turns: int, write: Write
) -> None:
    """Write the tokens of the first seconds of meshes, each of which serves these alone."""

    async def one(way: Way, turn: int) -> None:
        with contextlib.ExitStack() as stack:
            side = await asyncio.to_thread(stack.enter_context, way.started(cell.place))
            num_tokens = await tokens_within(side, load, turn, _START_S)
            write(Start(cell=str(cell), turn=turn, way=way.name, num_tokens=num_tokens))

    await pairs.in_turns(num_turns, *(partial(one, way) for way in ways))
