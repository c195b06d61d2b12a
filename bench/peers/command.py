"""`python -m bench peers`: airdraft and its peers on the same files and cores, in turns."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench.cores import cores_at_once
from bench.load.versus import Load, arrivals, in_turns
from bench.load.workloads import PLAIN_NAMES, workload
from bench.options import at_least, listed, model_file, streams_option
from bench.peers.systems import FAST, OWN, Peer, PeerError, Setup, all_peers
from bench.results.making import cells_of, this_commit, this_machine, typed_command
from bench.results.schema import SCHEMA, Cell, Results, System, to_json
from nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET

SUITE = "peers"
# Seconds of each open loop.
_OPEN_S = 30.0
# So that an open loop has some ten requests.
_LEAST_RATE = 0.3
_OURS = (OWN.name, FAST.name)
_PAIRS = {
    "Q8_0": (DEFAULT_TARGET, DEFAULT_DRAFT),
    "Q4_0": ("smollm2-135m-q4_0", DEFAULT_DRAFT),
    "1.5B Q4_K_M": ("qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b"),
}


def _in_a_folder(
    _context: click.Context, _parameter: click.Parameter, path: Path | None
) -> Path | None:
    """Refuse a path outside an existing folder before hours of measuring, not after them."""
    if path is not None and not path.parent.is_dir():
        raise click.BadParameter(f"{path.parent} is not an existing folder")
    return path


@click.command("peers")
@click.option("--quick", is_flag=True, help="Run two turns of a few cases, for about 3 minutes.")
@click.option(
    "--targets",
    type=listed(accepted=lambda: _PAIRS),
    default="Q8_0,Q4_0",
    help='Also "1.5B Q4_K_M", a real pair.',
)
@click.option(
    "--workloads",
    type=listed(accepted=lambda: (*PLAIN_NAMES, "json")),
    default="chat,copy,code-edit",
)
@streams_option("1,4,16")
@click.option(
    "--rates",
    type=listed(float, least=_LEAST_RATE, or_none=True),
    default="",
    show_default="none",
    help="Also run open loops with these request rates per second.",
)
@at_least("--turns", 9, "Turns of all systems, in changing order.")
@at_least("--threads", 1, "Engine threads of each system.")
@click.option(
    "--systems",
    type=listed(or_none=True),
    default="",
    show_default="all",
    help="Run only systems whose names contain one of these parts.",
)
@click.option(
    "--llama-server",
    type=click.Path(exists=True, dir_okay=False, executable=True, path_type=Path),
    help="llama.cpp's server, compiled here (bench/METHODOLOGY.md), instead of the prebuilt one.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_in_a_folder,
    help="Write the result to this file as JSON.",
)
def peers_command(
    quick: bool,
    targets: list[str],
    systems: list[str],
    llama_server: Path | None,
    out: Path | None,
    **loads: Any,
) -> None:
    """Compare airdraft with its alternatives over HTTP.

    All systems get the same requests, in turns.

    \b
    Example:
      python -m bench peers --quick --out quick.json
    """
    known = all_peers(is_quick=quick, native=llama_server)
    peers = [p for p in known if not systems or any(part in p.name for part in systems)]
    if not peers:
        names = ", ".join(peer.name for peer in known)
        raise click.UsageError(
            f"--systems: no name contains {', '.join(systems)}; systems: {names}"
        )
    if quick:
        targets = ["Q8_0"]
        loads |= {"workloads": loads["workloads"][:1], "streams": [1, 4], "turns": 2}
    files = {target: [model_file(name) for name in _PAIRS[target]] for target in targets}
    results = asyncio.run(_run(_Plan(files, **loads), peers, is_quick=quick))
    if out is not None:
        try:
            out.write_text(to_json(results), encoding="utf-8")
        except OSError as error:
            raise click.ClickException(f"{out}: {error.strerror}") from None
    if any("failed" in cell.note for cell in results.cells):
        click.echo("some requests failed: see the lines above", err=True)
        sys.exit(1)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Everything to run. targets: files of target and draft, by the target's name. rates: of the
    requests of open loops per second, with max(streams) slots.
    """

    targets: Mapping[str, Sequence[Path]]
    workloads: Sequence[str]
    streams: Sequence[int]
    rates: Sequence[float]
    turns: int
    threads: int

    def loads(self, count: int) -> dict[str, Load]:
        """Return the loads of a number of streams by name."""
        loads = {name: Load(workload=workload(name), num_streams=count) for name in self.workloads}
        for rate in self.rates if count == max(self.streams) else ():
            times = tuple(arrivals(rate, _OPEN_S, seed=1))
            made = Load(workload=workload(self.workloads[0]), num_streams=count, times=times)
            loads[f"{self.workloads[0]} at {rate:g} requests/s"] = made
        return loads


async def _run(plan: _Plan, peers: Sequence[Peer], *, is_quick: bool) -> Results:
    """Measure every cell. A missing peer, or one that does not start, is skipped with a reason."""
    at_once = [await asyncio.to_thread(cores_at_once)]
    skipped = [f"{peer.name}: {reason}" for peer in peers if (reason := peer.missing())]
    present = [peer for peer in peers if not peer.missing()]
    cells: list[Cell] = []
    for target in plan.targets:
        for count in plan.streams:
            cells += await _cells(plan, present, target, count, skipped, at_once)
    threads = f"{plan.threads} engine thread(s)"
    return Results(
        schema=SCHEMA,
        made_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=typed_command(),
        commit=this_commit(),
        machine=this_machine(),
        systems=tuple(System(name=p.name, version=p.version, settings=threads) for p in present),
        cells=tuple(cells),
        skipped=tuple(dict.fromkeys(skipped)),
        is_quick=is_quick,
        cores_at_once=min(at_once),
    )


async def _cells(
    plan: _Plan,
    peers: Sequence[Peer],
    target: str,
    count: int,
    skipped: list[str],
    at_once: list[float],
) -> list[Cell]:
    path, draft = plan.targets[target]
    setup = Setup(target=path, draft=draft, num_slots=count, num_threads=plan.threads)
    cells: list[Cell] = []
    with contextlib.ExitStack() as stack:
        sides = []
        for peer in peers:
            try:
                sides.append(await asyncio.to_thread(stack.enter_context, peer.started(setup)))
            except PeerError as error:
                skipped.append(str(error))
        for kind, load in plan.loads(count).items():
            place = f"{target}, {kind}, {count} stream{'s' if count > 1 else ''}"
            click.echo(f"{place}: {', '.join(side.name for side in sides)}")
            turns = await in_turns(sides, load, plan.turns)
            made = cells_of(SUITE, place, [side.name for side in sides], turns, _OURS)
            for cell in made:
                click.echo(_line(cell))
            cells += made
            at_once.append(await asyncio.to_thread(cores_at_once))
    return cells


def _line(cell: Cell) -> str:
    if cell.reference:
        ratios = (f"{v.metric} {v.value:.3f} ({v.low:.3f} to {v.high:.3f})" for v in cell.ratios)
        return f"  to {cell.reference}: {', '.join(ratios)}"
    by_metric = {value.metric: value.value for value in cell.values}
    rate, first = by_metric.get("decode tokens/s", 0.0), by_metric.get("first token p50", 0.0)
    return (
        f"  {cell.system}: {rate:.1f} tokens/s while all decode, first token {first * 1e3:.0f} ms"
        f"{'; ' + cell.note if cell.note else ''}"
    )
