"""`python -m bench live`: measure running meshes beside what they are compared with."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.emulate.open import Means
from bench.harness.options import names_option
from bench.harness.report import conclude
from bench.results.options import keep, out_option, quick_option


@click.group("live")
def live() -> None:
    """Measure whole meshes and their references in one run.

    \b
    Example:
      python -m bench live machine --targets Q8_0 --streams 1,4
    """


@live.command("machine")
@names_option("--targets", ("Q8_0", "Q4_0", "F16"), "Quantizations of the target.")
@names_option("--drafts", ("good", "bad", "lookup", "none"), "Kinds of guesses.")
@click.option("--streams", default="1,4,16", show_default=True, help="Stream counts.")
@click.option("--pairs", default=9, show_default=True, help="Pairs of runs, A B then B A.")
@click.option("--max-tokens", default=128, show_default=True)
@quick_option
@out_option
def machine(
    targets: list[str],
    drafts: list[str],
    streams: str,
    pairs: int,
    max_tokens: int,
    quick: bool,
    out: Path | None,
) -> None:
    """Compare a real mesh with a bare llama.cpp loop.

    Both run on this machine with the same numerics; nothing is emulated.

    \b
    Example:
      python -m bench live machine --targets Q8_0 --drafts good --streams 1 --pairs 3
    """
    from bench.live.cells import machine_cells
    from bench.live.machine import run_machine
    from bench.results.making import airdraft_system, bare_system, result_of

    if quick:
        targets, drafts, streams, pairs, max_tokens = ["Q8_0"], ["good"], "1", 2, 48
    counts = [int(part) for part in streams.split(",")]
    rows = run_machine(
        targets, drafts, counts, num_pairs=pairs, max_tokens=max_tokens, report=click.echo
    )
    systems = airdraft_system("1 engine thread"), bare_system("1 engine thread")
    keep(result_of(list(machine_cells(rows)), systems=systems, is_quick=quick), out)


@live.command("scale")
@click.option("--streams", default="16,64,256", show_default=True, help="Stream counts.")
@click.option("--seconds", default=10.0, show_default=True)
@click.option("--gamma", default=4, show_default=True, type=click.IntRange(1, 16))
@click.option(
    "--pass-ms", default=40.0, show_default=True, help="Duration of a target's pass in ms."
)
@click.option("--per-target", default=32, show_default=True, help="Streams of each target.")
@quick_option
@out_option
def scale(
    streams: str,
    seconds: float,
    gamma: int,
    pass_ms: float,
    per_target: int,
    quick: bool,
    out: Path | None,
) -> None:
    """Measure one coordinator's load on one core.

    Its nodes run on the other cores and look their tokens up instead of computing them.

    \b
    Example:
      python -m bench live scale --streams 256 --seconds 5
    """
    import asyncio

    from bench.live.cells import scale_cells
    from bench.live.scale import measure
    from bench.results.making import airdraft_system, result_of

    if quick:
        streams, seconds = "16", 2.0
    rows = []
    for part in streams.split(","):
        measuring = measure(int(part), seconds, per_target=per_target, gamma=gamma, pass_ms=pass_ms)
        rows.append(asyncio.run(measuring))
        click.echo(str(rows[-1]))
    settings = f"{per_target} a target, gamma {gamma}, passes of {pass_ms:g} ms"
    made = list(scale_cells(rows, settings))
    keep(result_of(made, systems=[airdraft_system()], is_quick=quick), out)
    sys.exit(1 if any(row.num_wrong for row in rows) else 0)


@live.command("edge")
@click.option(
    "--rates-kbps",
    default="200,2000,20000",
    show_default=True,
    help="Rates of the radio cell in kbit/s.",
)
@click.option("--alphas", default="0.4,0.6,0.7,0.8,0.9", show_default=True)
@click.option("--policies", default="", help="Planning modes. Default: plain and every other.")
@click.option("--streams", default=16, show_default=True)
@click.option(
    "--seconds", default=16.0, show_default=True, help="Measured seconds of each policy's turn."
)
@click.option(
    "--warm-up", default=8.0, show_default=True, help="Seconds of a turn before measuring begins."
)
@click.option(
    "--turns", default=1, show_default=True, help="Turns of each policy; several show the noise."
)
@click.option("--means", type=click.Choice(["auto", "tun", "proxy"]), default="auto")
@click.option("--target-on-air", is_flag=True, help="Make the target a station of the cell, too.")
@quick_option
@out_option
def edge(
    rates_kbps: str,
    alphas: str,
    policies: str,
    streams: int,
    seconds: float,
    warm_up: float,
    turns: int,
    means: Means,
    target_on_air: bool,
    quick: bool,
    out: Path | None,
) -> None:
    """EMULATED: measure a mesh on one radio cell.

    One strong target has four small draft nodes, whose links have different rates.

    \b
    Example:
      python -m bench live edge --rates-kbps 2000 --alphas 0.8 --policies plain,auto
    """
    import asyncio

    from bench.live.cells import edge_cells
    from bench.live.edge import run_setting
    from bench.live.edge_report import HEAD, verdict
    from bench.live.edge_setting import ALPHAS, Setting
    from bench.results.making import airdraft_system, result_of
    from bench.sim.closed_loop import COMPARED
    from nodes.scheduler.planning import MODES

    if quick:
        rates_kbps, alphas, policies = "2000", "0.9", "plain,auto,grouped"
        warm_up, seconds = 2.0, 4.0
    wanted = [float(part) for part in alphas.split(",")]
    if unknown := set(wanted) - set(ALPHAS):
        shown = ", ".join(map(str, sorted(unknown)))
        raise click.UsageError(f"--alphas: unknown: {shown}; use {', '.join(map(str, ALPHAS))}")
    names = policies.split(",") if policies else ["plain", *(p for p in COMPARED if p != "plain")]
    if unnamed := set(names) - set(MODES):
        raise click.UsageError(f"--policies: unknown policy: {', '.join(sorted(unnamed))}")
    where = ", the target on it" if target_on_air else ""
    click.echo(f"emulated devices, emulated air{where}\n{HEAD}")
    found = {}
    for rate in rates_kbps.split(","):
        for alpha in wanted:
            setting = Setting(
                rate_bps=float(rate) * 1e3,
                alpha=alpha,
                num_streams=streams,
                warm_up_s=warm_up,
                seconds=seconds,
                is_target_on_air=target_on_air,
            )
            found[setting] = asyncio.run(run_setting(setting, names, means, click.echo, turns))
    text, is_good = verdict(found)
    click.echo(text)
    made = list(edge_cells(found))
    keep(result_of(made, systems=[airdraft_system()], is_quick=quick), out)
    if quick:
        # So short a run may end before a draft node guesses; texts must be right all the same.
        is_good = not any(f.num_wrong for found_by in found.values() for f in found_by.values())
    sys.exit(0 if is_good else 1)


@live.command("mixed")
@click.option("--streams", default=8, show_default=True)
@click.option("--max-tokens", default=128, show_default=True)
@click.option("--turns", default=3, show_default=True)
def mixed(streams: int, max_tokens: int, turns: int) -> None:
    """EMULATED: measure meshes of unequal draft nodes.

    Draft nodes of different speed work for one target, and for two.

    \b
    Example:
      python -m bench live mixed --streams 4 --turns 1
    """
    import asyncio

    from bench.live.mixed import run_mixed

    conclude(asyncio.run(run_mixed(streams, max_tokens, turns, click.echo)))
