"""Send batches of several stations through an emulated cell; compare times with closed forms."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import numpy as np

from bench.emulate.cell import DOWN, UP, Cell, CountersOf, Shares, Station, Turns
from bench.emulate.open import LiveCell, Means, open_cell
from bench.emulate.peers import GRANT
from bench.emulate.proxy import HEADER_BYTES, SEGMENT_BYTES
from bench.harness.places import HUB
from bench.harness.report import Findings, head, row
from policies.acceptance import Floats
from policies.airtime import (
    airtime_s,
    batch_shares,
    batch_time_s,
    grant_order,
    turn_times_s,
)

RATIOS = (1, 4, 10)
BATCH_BYTES = 6 * SEGMENT_BYTES
WITHIN = 0.10
_START_LIMIT_S = 120.0
_QUIET_S = 0.1


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to share the cell.

    arrival_s: predicted arrival of each station's batch. grants: the order in which the hub grants
    turns.
    """

    name: str
    cell: Cell
    arrival_s: dict[str, float]
    grants: tuple[str, ...] = ()

    @property
    def batch_s(self) -> float:
        return max(self.arrival_s.values())


@dataclass(frozen=True, slots=True)
class Outcome:
    """Results. arrivals_s: of each repeat, by station. used: counters of all repeats."""

    scheme: Scheme
    arrivals_s: list[dict[str, float]]
    used: CountersOf

    @property
    def batches_s(self) -> list[float]:
        return [max(arrived.values()) for arrived in self.arrivals_s]

    @property
    def ratio(self) -> float:
        """Ratio of the measured (median) to the predicted arrival of the last batch."""
        return statistics.median(self.batches_s) / self.scheme.batch_s


@dataclass(frozen=True, slots=True)
class Load:
    """Airtime of a batch of each station, (n,) seconds each.

    data_s: all segments of a batch. ack_s: one acknowledgement; each segment gets one. grant_s: one
    grant. num_segments: segments of a batch.
    """

    data_s: Floats
    ack_s: Floats
    grant_s: Floats
    num_segments: int

    @property
    def until_arrived_s(self) -> Floats:
        """(n,) airtime until a batch has arrived if a station's two directions alternate.

        The last two acknowledgements come after it, because each acknowledgement is queued when the
        next segment is already on the air.
        """
        return self.data_s + max(0, self.num_segments - 2) * self.ack_s


def load_of(cell: Cell, batch_bytes: int) -> Load:
    """Return the load of one batch per station: some whole segments, which TCP sends at once."""
    num_segments = batch_bytes // SEGMENT_BYTES
    rates = [station.rate_bps for station in cell.stations]

    def alone_s(num_bytes: int, frames: int) -> Floats:
        return airtime_s(num_bytes * 8, frames, rates, cell.frame_s)

    wire_bytes = batch_bytes + num_segments * HEADER_BYTES
    return Load(
        data_s=alone_s(wire_bytes, num_segments),
        ack_s=alone_s(HEADER_BYTES, 1),
        grant_s=alone_s(HEADER_BYTES + len(GRANT), 1),
        num_segments=num_segments,
    )


def order(load: Load) -> tuple[int, ...]:
    """Return the indices of stations in the order of their grants: by s_k."""
    return tuple(int(k) for k in grant_order(load.data_s, np.ones(len(load.data_s))))


def turns_s(load: Load) -> Floats:
    """(n,) arrival times with grants in turn, each after the last batch's acknowledgements."""
    acknowledged_s = load.data_s + load.num_segments * load.ack_s
    after_s = acknowledged_s - load.until_arrived_s
    # The grant is acknowledged, too.
    whole_s = load.grant_s + load.ack_s + acknowledged_s
    return turn_times_s(whole_s, list(order(load))) - after_s


def narrow_cell(slowest_bps: float, frame_s: float) -> Cell:
    """Return a cell of three stations with rates as 1 to 4 to 10."""
    stations = tuple(
        Station(name=f"rate-{ratio}", rate_bps=slowest_bps * ratio) for ratio in RATIOS
    )
    return Cell(stations=stations, access=Turns(), frame_s=frame_s)


def schemes(cell: Cell) -> list[Scheme]:
    """Return all ways to share the cell, with their predictions."""
    load = load_of(cell, BATCH_BYTES)
    names = _names(cell)
    grants = tuple(names[k] for k in order(load))
    phi = tuple(float(share) for share in batch_shares(load.until_arrived_s))
    slots_s = load.until_arrived_s * len(names)
    equal = (1.0 / len(names),) * len(names)
    return [
        Scheme(
            "turns by grants",
            replace(cell, access=Turns()),
            {name: float(s) for name, s in zip(names, turns_s(load), strict=True)},
            grants,
        ),
        Scheme(
            "shares (i)",
            replace(cell, access=Shares(phi)),
            dict.fromkeys(names, batch_time_s(load.until_arrived_s)),
        ),
        Scheme(
            "equal reserved slots",
            replace(cell, access=Shares(equal)),
            {name: float(s) for name, s in zip(names, slots_s, strict=True)},
        ),
    ]


async def measure(scheme: Scheme, repeats: int, means: Means) -> tuple[Outcome, str]:
    """Measure a scheme in a cell of its own; return the outcome and the kind of cell."""
    async with open_cell(scheme.cell, means=means, calm=True) as (live, kind):
        async with _peers(live, scheme.cell) as (hub, stations):
            before = await _quiet(live)
            arrivals = []
            for _ in range(repeats):
                arrivals.append(await _round(scheme, hub, stations))
                after = await _quiet(live)
        used = {key: after[key] - before[key] for key in after}
        return Outcome(scheme, arrivals, used), kind


Process = asyncio.subprocess.Process


@contextlib.asynccontextmanager
async def _peers(live: LiveCell, cell: Cell) -> AsyncIterator[tuple[Process, list[Process]]]:
    """Start the programs of the hub and the stations, and connect them."""
    batch, count = str(BATCH_BYTES), str(len(cell.stations))
    async with contextlib.AsyncExitStack() as stack:
        hub = await stack.enter_async_context(_peer(live, HUB, "hub", live.hub_host, count, batch))
        port = int(await _read_line(hub))
        stations = []
        for station in cell.stations:
            host, at = await live.dial(station.name, port)
            arguments = ("station", station.name, host, str(at), batch)
            peer = _peer(live, station.name, *arguments)
            stations.append(await stack.enter_async_context(peer))
        await _read_line(hub)
        yield hub, stations


@contextlib.asynccontextmanager
async def _peer(live: LiveCell, place: str, *arguments: str) -> AsyncIterator[Process]:
    argv = live.command(place, [sys.executable, "-m", "bench.emulate.peers", *arguments])
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def _read_line(process: Process, limit_s: float = _START_LIMIT_S) -> str:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), limit_s)
    if not line:
        raise RuntimeError("a program of the cell has ended; see its message above")
    return line.decode()


async def _round(scheme: Scheme, hub: Process, stations: list[Process]) -> dict[str, float]:
    """Send one batch per station; return the seconds until each arrived."""
    start_s = time.monotonic()
    _write_line(hub, " ".join(scheme.grants))
    if not scheme.grants:
        for station in stations:
            _write_line(station, "go")
    arrived = json.loads(await _read_line(hub, _START_LIMIT_S + 10 * scheme.batch_s))
    return {name: at_s - start_s for name, at_s in arrived.items()}


def _names(cell: Cell) -> list[str]:
    return [station.name for station in cell.stations]


async def _quiet(live: LiveCell) -> CountersOf:
    """Wait until the counters no longer change, after the last acknowledgements; return them."""
    before, found = None, live.counters()
    while found != before:
        await asyncio.sleep(_QUIET_S)
        before, found = found, live.counters()
    return found


def _write_line(process: Process, line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n".encode())


def report(outcomes: list[Outcome], kind: str) -> str:
    """Return the tables of all schemes."""
    cell = outcomes[0].scheme.cell
    rates = ", ".join(f"{station.rate_bps / 1e3:g}" for station in cell.stations)
    lines = [
        f"*emulated* cell ({kind}): stations at {rates} kbit/s, {cell.frame_s * 1e3:g} ms a frame, "
        f"{BATCH_BYTES} bytes each, {len(outcomes[0].arrivals_s)} repeats",
        "",
        head(
            *("access", "predicted s", "measured s, median (range)", "ratio"),
            *("frames up, down", "failed"),
        ),
    ]
    for outcome in outcomes:
        measured = outcome.batches_s
        up, down = (
            sum(c.num_frames for (_, way), c in outcome.used.items() if way == direction)
            for direction in (UP, DOWN)
        )
        lines.append(
            row(
                outcome.scheme.name,
                f"{outcome.scheme.batch_s:.3f}",
                f"{statistics.median(measured):.3f} ({min(measured):.3f} to {max(measured):.3f})",
                f"{outcome.ratio:.3f}",
                f"{up}, {down}",
                sum(c.num_lost + c.num_collided + c.num_dropped for c in outcome.used.values()),
            )
        )
    lines += ["", head("access", "station", "predicted s", "measured s, median", "ratio")]
    for outcome in outcomes:
        for name, predicted_s in outcome.scheme.arrival_s.items():
            found_s = statistics.median(arrived[name] for arrived in outcome.arrivals_s)
            seconds = f"{predicted_s:.3f}", f"{found_s:.3f}", f"{found_s / predicted_s:.3f}"
            lines.append(row(outcome.scheme.name, name, *seconds))
    return "\n".join(lines)


async def run_check(slowest_bps: float, frame_s: float, repeats: int, means: Means) -> Findings:
    """Measure all schemes. A median time that is not within WITHIN of its prediction is a fault."""
    outcomes, kind = [], ""
    for scheme in schemes(narrow_cell(slowest_bps, frame_s)):
        outcome, kind = await measure(scheme, repeats, means)
        outcomes.append(outcome)
    faults = [
        f"{outcome.scheme.name}: {outcome.ratio:.3f} of the predicted time"
        for outcome in outcomes
        if abs(outcome.ratio - 1.0) > WITHIN
    ]
    return Findings([report(outcomes, kind)], faults)
