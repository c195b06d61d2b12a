"""How long clients wait when their target is lost and another one is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from bench.chaos.links.clients import Heard
from bench.chaos.links.mesh import TARGET, link_mesh
from bench.emulate.open import Means, open_cell
from bench.emulate.profiles import GOOD, cell_of
from bench.emulate.replay import read_config
from bench.harness.places import HUB
from bench.harness.report import head, quantiles, row

STALL_WITHIN_S = 3.0
_TARGETS = ("target-0", "target-1")
_BEFORE_STALL_S, _AFTER_STALL_S = 5.0, 8.0
# Longest usual time between two notices; a stream that waits less was not on the lost target.
_USUAL_S = 0.5
_MANY_TOKENS = 512
Report = Callable[[str], None]


def _each(seconds: Sequence[float]) -> str:
    return " ".join(f"{s:.2f}" for s in quantiles(seconds))


@dataclass(slots=True)
class StallFigures:
    """Results of one way to lose targets.

    reading_s: seconds that the remaining target takes to read a token of a text that moves there.
    lost_at: times of the losses. heard: what all streams received, from before the first loss on.
    """

    how: str
    num_streams: int
    reading_s: float = 0.0
    lost_at: list[float] = field(default_factory=list)
    heard: Heard = field(default_factory=Heard)

    def stalls_s(self) -> list[tuple[float, float]]:
        """Return a pair for each stream that waited in each loss.

        The first number is the time from the loss to its next token. The second is the time that
        the target needs, by its costs, to read this text and all texts that were back before it.
        """
        found = []
        for lost_at in self.lost_at:
            waited = [
                (at - lost_at, length)
                for at, gap_s, length in self.heard.gaps_s
                if at - gap_s <= lost_at < at and at - lost_at > _USUAL_S
            ]
            for stall_s, _ in waited:
                num_read = sum(length for other_s, length in waited if other_s <= stall_s)
                found.append((stall_s, self.reading_s * num_read))
        return found

    def faults(self) -> list[str]:
        found, stalls_s = [], self.stalls_s()
        if not stalls_s:
            found.append("no stream had to wait, so the run shows nothing")
        elif (p99 := quantiles([s - read_s for s, read_s in stalls_s])[1]) > STALL_WITHIN_S:
            found.append(f"p99 of the stall without reading texts is {p99:.1f} s")
        found += self.heard.faults()
        if (waits_s := max(self.heard.waits_s, default=0.0)) > _AFTER_STALL_S:
            found.append(f"at the end a stream had waited for {waits_s:.1f} s")
        return [f"{self.how}: {fault}" for fault in found]

    def row(self) -> str:
        stalls_s = self.stalls_s()
        return row(
            self.how,
            len(self.lost_at),
            f"{len(stalls_s)} of {len(self.lost_at) * self.num_streams}",
            _each([s for s, _ in stalls_s]),
            _each([read_s for _, read_s in stalls_s]),
            _each([s - read_s for s, read_s in stalls_s]),
            self.heard.num_wrong,
            self.heard.num_failed,
        )


HEAD = head(
    *("target lost by", "times", "streams that waited", "stall s, p50 p99 max"),
    *("of it reading texts", "rest", "texts wrong", "failed"),
)


async def run_stalls(
    hows: Sequence[str], times: int, streams: int, seed: int, means: Means, report: Report
) -> list[StallFigures]:
    """Lose two targets in turns, each behind a good link of its own; clients are at the hub.

    Raises NamespacesError if TUN devices are required and not allowed.
    """
    random = Random(seed)
    found = []
    cell = cell_of(dict.fromkeys(_TARGETS, GOOD), seed)
    async with open_cell(cell, means=means) as (live, kind), link_mesh(live, live) as mesh:
        report(f"*emulated* ({kind}), seed {seed}, {streams} streams\n\n{HEAD}")
        for name in _TARGETS:
            await mesh.start_node(name, name)
        await mesh.fleet.are_in(*_TARGETS)
        clients = await mesh.start_clients("clients", HUB, streams, 0)
        for how in hows:
            figures = StallFigures(how, streams, _reading_s())
            clients.heard()
            for number in range(times):
                await asyncio.sleep(_BEFORE_STALL_S + random.random())
                figures.lost_at.append(await mesh.lose(how, _TARGETS[number % 2]))
                await asyncio.sleep(_AFTER_STALL_S)
                await mesh.bring_back(how, _TARGETS[number % 2])
            await asyncio.sleep(_BEFORE_STALL_S)
            figures.heard = clients.heard()
            report(figures.row())
            found.append(figures)
    return found


def _reading_s() -> float:
    """Return the emulated target's time to read one token of a long batch."""
    return read_config(TARGET).costs.prefill.at(_MANY_TOKENS) / _MANY_TOKENS
