"""`python -m bench chaos stalls`: how long clients wait when one of two targets is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

import click

from bench.chaos.links.mesh import TARGET, link_mesh, link_options
from bench.emulate.open import LiveCell, Means, open_cell
from bench.emulate.profiles import BOTH, GOOD, cell_of
from bench.emulate.replay import read_config
from bench.harness.fleet import Fleet
from bench.harness.processes import HUB
from bench.harness.report import Findings, conclude, head, quantiles, row
from bench.harness.streams import Heard, Task, counted, streams
from bench.options import at_least, names_option

HOWS = ("kill", "cut")
STALL_WITHIN_S = 3.0
_TARGETS = ("target-0", "target-1")
_LOSS_LIMIT_S = 120.0
_BEFORE_STALL_S, _AFTER_STALL_S = 5.0, 8.0
# Longest usual time between two notices; a stream that waits less was not on the lost target.
_USUAL_S = 0.5
# A token that had left the target before its loss arrives later by less than this.
_UNDER_WAY_S = 0.1
_MANY_TOKENS = 512


@click.command("stalls")
@names_option("--hows", HOWS, "Ways to lose a target.")
@at_least("--times", 20, "Losses by each way.")
@at_least("--streams", 8)
@link_options
def stalls_command(hows: list[str], times: int, streams: int, seed: int, means: Means) -> None:
    """EMULATED: measure how long clients wait when one of two targets is killed or cut off.

    \b
    Example:
      python -m bench chaos stalls --hows kill --times 5
    """
    faults = asyncio.run(run_stalls(hows, times, streams, seed, means))
    conclude(Findings(faults=faults))


def stalls_of(
    heard: Heard, lost_at: Sequence[float], reading_s: float
) -> list[tuple[float, float]]:
    """Returns a pair for each stream that waited in each loss of a target.

    The first number is the time from the loss to its next token. The second is the time that the
    target needs, by its costs, to read this text and all texts that were back before it.
    reading_s: seconds that the remaining target takes to read a token of a text that moves there.
    """
    found = []
    for begin in lost_at:
        waited = [
            (at - begin, length)
            for at, gap_s, length in heard.gaps_s
            if at - gap_s <= begin + _UNDER_WAY_S and min(gap_s, at - begin) > _USUAL_S
        ]
        for stall_s, _ in waited:
            num_read = sum(length for other_s, length in waited if other_s <= stall_s)
            found.append((stall_s, reading_s * num_read))
    return found


def judged(
    how: str, num_streams: int, reading_s: float, lost_at: Sequence[float], heard: Heard
) -> Findings:
    """Returns the row of one way to lose targets, and its faults.

    heard: what all streams received, from before the first loss on.
    """
    stalls_s = stalls_of(heard, lost_at, reading_s)
    rests_s = [stall_s - read_s for stall_s, read_s in stalls_s]
    faults = []
    if not stalls_s:
        faults.append("no stream had to wait, so the run shows nothing")
    elif (p99 := quantiles(rests_s)[1]) > STALL_WITHIN_S:
        faults.append(f"p99 of the stall without reading texts is {p99:.1f} s")
    faults += heard.faults()
    if (waits_s := max(heard.waits_s, default=0.0)) > _AFTER_STALL_S:
        faults.append(f"at the end a stream had waited for {waits_s:.1f} s")
    line = row(
        *(how, len(lost_at), f"{len(stalls_s)} of {len(lost_at) * num_streams}"),
        _each([stall_s for stall_s, _ in stalls_s]),
        _each([read_s for _, read_s in stalls_s]),
        _each(rests_s),
        counted([heard]),
    )
    return Findings([line], [f"{how}: {fault}" for fault in faults])


def _each(seconds: Sequence[float]) -> str:
    return " ".join(f"{s:.2f}" for s in quantiles(seconds))


HEAD = head(
    *("target lost by", "times", "streams that waited", "stall s, p50 p99 max"),
    *("of it reading texts", "rest", "texts wrong, complete, failed"),
)


async def run_stalls(
    hows: Sequence[str], times: int, num_streams: int, seed: int, means: Means
) -> list[str]:
    """Lose the target that has more streams, again and again; clients are at the hub.

    Each of the two targets is behind a good link of its own.

    The table is shown row by row. Returns the faults. Raises NamespacesError if TUN devices are
    required and not allowed.
    """
    random, faults = Random(seed), list[str]()
    cell = cell_of(dict.fromkeys(_TARGETS, GOOD), seed)
    async with open_cell(cell, means=means) as (live, kind), link_mesh(live) as mesh:
        click.echo(f"*emulated* ({kind}), seed {seed}, {num_streams} streams\n\n{HEAD}")
        for name in _TARGETS:
            await mesh.start(name, place=name)
        await mesh.wait_joined(*_TARGETS)
        async with (
            mesh.clients(1, "admin", HUB) as (observer,),
            streams(mesh, Task(num_streams=num_streams)) as clients,
        ):
            for how in hows:
                lost_at = []
                clients.heard()
                for _ in range(times):
                    await asyncio.sleep(_BEFORE_STALL_S + random.random())
                    # With the streams on one target, the loss of the other would show nothing.
                    nodes = (await observer.status()).nodes
                    name = max(nodes, key=lambda node: node.num_streams).name.partition("/")[0]
                    lost_at.append(mesh.now())
                    await _lose(mesh, live, how, name)
                await asyncio.sleep(_BEFORE_STALL_S)
                found = judged(how, num_streams, _reading_s(), lost_at, clients.heard())
                click.echo(found.lines[0])
                faults += found.faults
    return faults


async def _lose(mesh: Fleet, cell: LiveCell, how: str, name: str) -> None:
    """Kill a target or cut its link; undo this later, and wait until it is a member again."""
    if how == "kill":
        await mesh.kill(name)
        await asyncio.sleep(_AFTER_STALL_S)
        again_at = mesh.now()
        await mesh.start(name, place=name)
        await mesh.wait_changed(name, again_at, has_left=False, limit_s=_LOSS_LIMIT_S)
    else:
        cell.cut(name, BOTH)
        await asyncio.sleep(_AFTER_STALL_S)
        cell.cut(name, BOTH, ends=True)
        await mesh.wait_joined(name, limit_s=_LOSS_LIMIT_S)


def _reading_s() -> float:
    """Returns the emulated target's time to read one token of a long batch."""
    return read_config(TARGET).costs.prefill.at(_MANY_TOKENS) / _MANY_TOKENS
