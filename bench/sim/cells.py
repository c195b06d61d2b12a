"""Figures of simulated meshes as cells of a result. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.live.pairs import paired_ratio
from bench.results.cells import ratio_value
from bench.results.schema import Cell, Value
from bench.sim.closed_loop import Outcome
from bench.sim.growth import Grown


def sim_cells(outcomes: Sequence[Outcome]) -> Iterator[Cell]:
    """Yield ratios of auto to every other mode, with each scenario as a pair. They compare the
    inverse of the mean price, in tokens a second.
    """
    for policy in outcomes[0].prices_s if outcomes else ():
        if policy == "auto":
            continue
        rates = [(1 / o.prices_s[policy], 1 / o.prices_s["auto"]) for o in outcomes]
        yield Cell(
            suite="sim (simulated)",
            place="random scenarios",
            system="auto",
            reference=policy,
            ratios=(ratio_value("tokens/s", paired_ratio(rates)),),
            note=f"{len(outcomes)} scenarios",
        )


def growth_cells(rows: Sequence[Grown]) -> Iterator[Cell]:
    """Yield the coordinator's costs for each number of streams."""
    for row in rows:
        yield Cell(
            suite="growth (simulated)",
            place=f"{row.num_streams} streams, {row.kind}",
            system="coordinator",
            values=(
                Value(metric="stream passes/s", unit="1/s", value=row.passes_per_s),
                Value(metric="cores", unit="", value=row.num_cores),
                Value(metric="memory a stream", unit="B", value=row.bytes / row.num_streams),
            ),
        )
