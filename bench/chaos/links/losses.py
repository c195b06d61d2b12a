"""The loss of a target, or of all draft nodes: how long streams wait, and how fast they go on.

Stalls are how long clients wait when their target is lost and another one is left. Draftless is the
speed of streams when all draft nodes are lost at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import median

from bench.chaos.links.clients import Heard
from bench.chaos.links.mesh import TARGET, link_mesh
from bench.emulate.open import Means, open_cell
from bench.emulate.profiles import BOTH, GOOD, cell_of
from bench.harness.places import HUB
from bench.harness.report import head, quantiles, row
from nodes.engine.replay import open_replay

STALL_WITHIN_S = 3.0
LEAST_RATIO = 0.95
# Least ratio of the speed with guesses to plain decoding; below it a run shows nothing.
_LEAST_GAIN = 1.1
_DRAFTS, _TARGETS = ("draft-0", "draft-1"), ("target-0", "target-1")
_BEFORE_STALL_S, _AFTER_STALL_S = 5.0, 8.0
# Longest usual time between two notices; a stream that waits less was not on the lost target.
_USUAL_S = 0.5
_MANY_TOKENS = 512
_GUESSING_S, _PLAIN_S = 12.0, 4.0
# Time from a loss until plain decoding is measured, long after the loss has any effect.
_REST_S = 6.0
Report = Callable[[str], None]


def _each(seconds: Sequence[float]) -> str:
    return " ".join(f"{s:.2f}" for s in quantiles(seconds))


# -- the loss of a target --------------------------------------------------------------------------


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


STALLS_HEAD = head(
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
        report(f"*emulated* ({kind}), seed {seed}, {streams} streams\n\n{STALLS_HEAD}")
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
    opened = open_replay(TARGET, num_cells=_MANY_TOKENS, max_sequences=1)
    return opened.costs.prefill.at(_MANY_TOKENS) / _MANY_TOKENS


# -- the loss of all draft nodes -------------------------------------------------------------------


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
        losses = self.losses
        ratios = sorted(loss.ratio for loss in losses)
        return row(
            self.how,
            len(losses),
            f"{self.never_drafted:.0f}",
            f"{median(loss.guessing for loss in losses):.0f}",
            f"{median(loss.after for loss in losses):.0f}",
            f"{median(loss.plain for loss in losses):.0f}",
            f"{median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})",
            f"{median(loss.gap_s for loss in losses):.2f}",
            _each([s for loss in losses for s in loss.stall_s]),
            self.heard.num_wrong,
            self.heard.num_failed,
        )


DRAFTLESS_HEAD = head(
    *("draft nodes lost by", "times", "tokens/s before there were any", "with guesses"),
    *("after the loss", "plain", "after / plain (min to max)", "gap s, p99"),
    *("stall s, p50 p99 max", "texts wrong", "failed"),
)


async def run_draftless(
    hows: Sequence[str], times: int, streams: int, seed: int, means: Means, report: Report
) -> list[DraftlessFigures]:
    """Lose all draft nodes at once, each behind a good link; target and clients are at the hub.

    Raises NamespacesError if TUN devices are required and not allowed.
    """
    random = Random(seed)
    found = []
    cell = cell_of(dict.fromkeys(_DRAFTS, GOOD), seed)
    async with open_cell(cell, means=means) as (live, kind), link_mesh(live, live) as mesh:
        report(f"*emulated* ({kind}), seed {seed}, {streams} streams\n\n{DRAFTLESS_HEAD}")
        await mesh.start_node(_TARGETS[0])
        await mesh.fleet.are_in(_TARGETS[0])
        clients = await mesh.start_clients("clients", HUB, streams, 0)
        await asyncio.sleep(_REST_S + _PLAIN_S)
        now = mesh.fleet.now()
        never_drafted = clients.heard().tokens_per_s(now - _PLAIN_S, now)
        for how in hows:
            figures = DraftlessFigures(how, never_drafted)
            for number in range(times):
                await mesh.bring_back("kill" if number == 0 else how, *_DRAFTS)
                await clients.until_guesses()
                await asyncio.sleep(_GUESSING_S + random.random())
                lost_at = await mesh.lose(how, *_DRAFTS)
                await asyncio.sleep(_REST_S + _PLAIN_S)
                heard = clients.heard()
                figures.losses.append(loss_of(heard, lost_at))
                figures.heard.add(heard)
            if how == "cut":
                for name in _DRAFTS:
                    live.mend(name, BOTH)
                    await mesh.fleet.kill(name)
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
