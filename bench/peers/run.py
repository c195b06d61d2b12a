"""airdraft and its peers on the same files, cores and prompts; all run, and serve in turns."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cores import cores_at_once
from bench.load.versus import Load, arrivals, in_turns
from bench.load.workloads import workload
from bench.peers.airdraft import Airdraft
from bench.peers.llama_cpp_python import LlamaCppPython
from bench.peers.llama_server import MODES, LlamaServer
from bench.peers.native_server import NativeServer
from bench.peers.peer import Peer, PeerError, Setup
from bench.peers.tightwad import Tightwad
from bench.results.cells import cells_of
from bench.results.making import this_commit, this_machine, typed_command
from bench.results.schema import SCHEMA, Cell, Results, System

SUITE = "peers"
# Seconds of each open loop.
_OPEN_S = 30.0
OWN = Airdraft()
# With this profile guesses and batch sizes may change bits; it reads long prompts faster.
FAST = Airdraft(profile="fast")
_OURS = (OWN.name, FAST.name)


def all_peers(*, is_quick: bool = False, native: Path | None = None) -> list[Peer]:
    """Return airdraft and then its peers. is_quick: leave out airdraft's fast profile, and the peer
    that takes minutes for a turn. native: llama.cpp's server, compiled on this machine, instead of
    the prebuilt one; airdraft then also runs on llama.cpp's kernels.
    """
    servers: list[Peer] = [LlamaServer(mode) for mode in MODES]
    if native is not None:
        servers = [NativeServer(native, mode) for mode in MODES]
        servers += [Airdraft("none", profile, True) for profile in ("exact", "fast")]
    bare = [LlamaCppPython("plain"), LlamaCppPython("lookup")]
    found: list[Peer] = [OWN, Airdraft(drafts="none"), *servers, *bare]
    return found if is_quick else [OWN, FAST, *found[1:], Tightwad()]


@dataclass(frozen=True, slots=True)
class Target:
    """A model file with that of its draft. name: name in results."""

    name: str
    path: Path
    draft: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything to run. rates_per_s: request rates of open loops, with max(streams) slots."""

    targets: Sequence[Target]
    workloads: Sequence[str]
    streams: Sequence[int]
    rates_per_s: Sequence[float] = ()
    num_turns: int = 9
    num_threads: int = 1
    is_quick: bool = False


async def run_peers(plan: Plan, peers: Sequence[Peer], report: Callable[[str], None]) -> Results:
    """Measure every cell. A missing peer, or one that does not start, is skipped with a reason."""
    at_once = [await asyncio.to_thread(cores_at_once)]
    skipped = [f"{peer.name}: {reason}" for peer in peers if (reason := peer.missing())]
    present = [peer for peer in peers if not peer.missing()]
    cells: list[Cell] = []
    for target in plan.targets:
        for count in plan.streams:
            cells += await _cells(plan, present, target, count, skipped, at_once, report)
    threads = f"{plan.num_threads} engine thread(s)"
    return Results(
        schema=SCHEMA,
        made_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=typed_command(),
        commit=this_commit(),
        machine=this_machine(),
        systems=tuple(System(name=p.name, version=p.version, settings=threads) for p in present),
        cells=tuple(cells),
        skipped=tuple(dict.fromkeys(skipped)),
        is_quick=plan.is_quick,
        cores_at_once=min(at_once),
    )


async def _cells(
    plan: Plan,
    peers: Sequence[Peer],
    target: Target,
    count: int,
    skipped: list[str],
    at_once: list[float],
    report: Callable[[str], None],
) -> list[Cell]:
    setup = Setup(
        target=target.path, draft=target.draft, num_slots=count, num_threads=plan.num_threads
    )
    cells: list[Cell] = []
    with contextlib.ExitStack() as stack:
        sides = []
        for peer in peers:
            try:
                sides.append(await asyncio.to_thread(stack.enter_context, peer.started(setup)))
            except PeerError as error:
                skipped.append(str(error))
        for kind, load in _loads(plan, count):
            place = f"{target.name}, {kind}, {count} stream{'s' if count > 1 else ''}"
            report(f"{place}: {', '.join(side.name for side in sides)}")
            turns = await in_turns(sides, load, plan.num_turns)
            made = cells_of(SUITE, place, [side.name for side in sides], turns, _OURS)
            for cell in made:
                report(_line(cell))
            cells += made
            at_once.append(await asyncio.to_thread(cores_at_once))
    return cells


def _loads(plan: Plan, count: int) -> list[tuple[str, Load]]:
    loads = [(name, Load(workload=workload(name), num_streams=count)) for name in plan.workloads]
    if count != max(plan.streams):
        return loads
    for rate in plan.rates_per_s:
        times = tuple(arrivals(rate, _OPEN_S, seed=1))
        made = Load(workload=workload(plan.workloads[0]), num_streams=count, times=times)
        loads.append((f"{plan.workloads[0]} at {rate:g} requests/s", made))
    return loads


def _line(cell: Cell) -> str:
    if cell.reference:
        ratios = ", ".join(
            f"{v.metric} {v.value:.3f} ({v.low:.3f} to {v.high:.3f})" for v in cell.ratios
        )
        return f"  to {cell.reference}: {ratios}"
    by_metric = {value.metric: value.value for value in cell.values}
    rate, first = by_metric.get("decode tokens/s", 0.0), by_metric.get("first token p50", 0.0)
    return (
        f"  {cell.system}: {rate:.1f} tokens/s while all decode, first token {first * 1e3:.0f} ms"
        f"{'; ' + cell.note if cell.note else ''}"
    )
