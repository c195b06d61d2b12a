"""Measure the speed of streams when all draft nodes are lost at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import median

from bench.chaos.links.clients import Heard
from bench.chaos.links.mesh import LinkMesh, link_mesh
from bench.chaos.quantiles import quantiles
from bench.emulate.open import LiveCell, Means, open_cell
from bench.emulate.profiles import BOTH, GOOD, cell_of
from bench.emulate.tun import HUB

LEAST_RATIO = 0.95
# Least ratio of the speed with guesses to plain decoding; below it the run shows nothing.
_LEAST_GAIN = 1.1
HOWS = ("kill", "cut")
_NODES = ("draft-0", "draft-1")
_GUESSING_S, _PLAIN_S, _LIMIT_S = 12.0, 4.0, 120.0
# Time from a loss until plain decoding is measured, long after the loss has any effect.
_REST_S = 6.0


@dataclass(frozen=True, slots=True)
class Loss:
    """One loss of all draft nodes, with speeds of all streams together in tokens per second.

    guessing: before the loss. after: from gap_s after the loss. plain: from _REST_S after it.
    gap_s: p99 of the time between two notices of a stream before the loss. stall_s: for each
    stream, the time from the loss to its next tokens.
    """

    guessing: float
    after: float
    plain: float
    gap_s: float
    stall_s: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return self.after / self.plain


@dataclass(slots=True)
class DraftlessFigures:
    """Results of one way to lose draft nodes. never_drafted: tokens/s before there were any."""

    how: str
    never_drafted: float
    losses: list[Loss] = field(default_factory=list)
    heard: Heard = field(default_factory=Heard)

    def faults(self) -> list[str]:
        found = []
        ratio = median(loss.ratio for loss in self.losses)
        if ratio < LEAST_RATIO:
            found.append(f"after the loss {ratio:.2f} of the speed of plain decoding")
        gain = median(loss.guessing / loss.plain for loss in self.losses)
        if gain < _LEAST_GAIN:
            found.append(
                f"with guesses only {gain:.2f} of the speed of plain decoding, so the run shows "
                f"nothing"
            )
        found += self.heard.faults()
        return [f"{self.how}: {fault}" for fault in found]

    def row(self) -> str:
        guessing, after, plain = (
            median(getattr(loss, name) for loss in self.losses)
            for name in ("guessing", "after", "plain")
        )
        ratios = sorted(loss.ratio for loss in self.losses)
        gap = f"{median(loss.gap_s for loss in self.losses):.2f}"
        stalls = " ".join(
            f"{s:.2f}" for s in quantiles([s for loss in self.losses for s in loss.stall_s])
        )
        return (
            f"| {self.how} | {len(self.losses)} | {self.never_drafted:.0f} | {guessing:.0f} "
            f"| {after:.0f} | {plain:.0f} | {median(ratios):.3f} ({ratios[0]:.3f} to "
            f"{ratios[-1]:.3f}) | {gap} | {stalls} "
            f"| {self.heard.num_wrong} | {self.heard.num_failed} |"
        )


HEAD = (
    "| draft nodes lost by | times | tokens/s before there were any | with guesses "
    "| after the loss | plain | after / plain (min to max) | gap s, p99 "
    "| stall s, p50 p99 max | texts wrong | failed |\n|" + "---|" * 11
)


async def run_draftless(
    hows: Sequence[str],
    times: int,
    streams: int,
    seed: int,
    means: Means,
    report: Callable[[str], None],
) -> list[DraftlessFigures]:
    """Lose all draft nodes at once, each behind a good link; target and clients are at the hub.

    Raises NamespacesError if TUN devices are required and not allowed.
    """
    random = Random(seed)
    found = []
    cell = cell_of(dict.fromkeys(_NODES, GOOD), seed)
    async with open_cell(cell, means=means) as (live, kind), link_mesh(live) as mesh:
        report(f"*emulated* ({kind}), seed {seed}, {streams} streams\n\n{HEAD}")
        await mesh.start_node("target", "target", HUB)
        await mesh.are_in(["target"])
        clients = await mesh.start_clients("clients", HUB, streams, 0)
        await asyncio.sleep(_REST_S + _PLAIN_S)
        now = mesh.now()
        never_drafted = (await clients.heard()).tokens_per_s(now - _PLAIN_S, now)
        for how in hows:
            figures = DraftlessFigures(how, never_drafted)
            for number in range(times):
                await _bring_back(mesh, live, how, is_first=number == 0)
                await clients.until_guesses()
                await asyncio.sleep(_GUESSING_S + random.random())
                lost_at = await _lose(mesh, live, how)
                await asyncio.sleep(_REST_S + _PLAIN_S)
                heard = await clients.heard()
                figures.losses.append(loss_of(heard, lost_at))
                figures.heard.add(heard)
            if how == "cut":
                for name in _NODES:
                    live.mend(name, BOTH)
                    await mesh.kill(name)
            report(figures.row())
            found.append(figures)
    return found


def loss_of(heard: Heard, lost_at: float) -> Loss:
    """Compute a loss. heard: from _PLAIN_S before it until _REST_S + _PLAIN_S after it."""
    gaps = [gap_s for at, gap_s, _ in heard.gaps_s if lost_at - _PLAIN_S < at <= lost_at]
    gap_s = quantiles(gaps)[1]
    back_at, plain_at = lost_at + gap_s, lost_at + _REST_S
    return Loss(
        guessing=heard.tokens_per_s(lost_at - _PLAIN_S, lost_at),
        after=heard.tokens_per_s(back_at, back_at + _PLAIN_S),
        plain=heard.tokens_per_s(plain_at, plain_at + _PLAIN_S),
        gap_s=gap_s,
        stall_s=tuple(at - lost_at for at, gap_s, _ in heard.gaps_s if at - gap_s <= lost_at < at),
    )


async def _lose(mesh: LinkMesh, live: LiveCell, how: str) -> float:
    at = mesh.now()
    for name in _NODES:
        if how == "kill":
            await mesh.kill(name)
        else:
            live.cut(name, BOTH)
    return at


async def _bring_back(mesh: LinkMesh, live: LiveCell, how: str, *, is_first: bool) -> None:
    at = mesh.now()
    for name in _NODES:
        if how == "kill" or is_first:
            await mesh.start_node("draft", name, name)
        else:
            live.mend(name, BOTH)
    for name in _NODES:
        await mesh.has_joined(name, at, _LIMIT_S)
