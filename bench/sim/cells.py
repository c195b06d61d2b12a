"""From simulated meshes to cells of a result. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.live.pairs import paired_ratio
from bench.results.cells import ratio_value
from bench.results.schema import Cell
from bench.sim.closed_loop import COMPARED, Outcome


def sim_cells(outcomes: Sequence[Outcome]) -> Iterator[Cell]:
    """joint beside every other policy, each scenario a pair; ratios of tokens a second of a client
    on average.
    """
    for policy in COMPARED:
        if policy == "joint" or not outcomes:
            continue
        rates = [(1 / o.prices_s[policy], 1 / o.prices_s["joint"]) for o in outcomes]
        yield Cell(
            suite="sim (simulated)",
            place="random scenarios",
            system="joint",
            reference=policy,
            ratios=(ratio_value("tokens/s", paired_ratio(rates)),),
            note=f"{len(outcomes)} scenarios",
        )
