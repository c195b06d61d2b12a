"""`python -m bench peers`: comparisons with alternatives to airdraft."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from bench.results.options import keep, out_option


@click.command("peers")
@click.option("--quick", is_flag=True, help="Run two turns of a few cases, for about 3 minutes.")
@click.option(
    "--targets", default="Q8_0,Q4_0", show_default=True, help='Also "1.5B Q4_K_M", a real pair.'
)
@click.option("--workloads", default="chat,copy,code-edit", show_default=True)
@click.option("--streams", default="1,4,16", show_default=True, help="Stream counts.")
@click.option(
    "--rates", default="", help="Also run open loops with these request rates per second."
)
@click.option(
    "--turns", default=9, show_default=True, help="Turns of all systems, in changing order."
)
@click.option("--threads", default=1, show_default=True, help="Engine threads of each system.")
@click.option(
    "--systems", default="", help="Run only systems whose names contain one of these parts."
)
@click.option(
    "--llama-server",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="llama.cpp's server, compiled here (bench/METHODOLOGY.md), instead of the prebuilt one.",
)
@out_option
def peers_command(
    quick: bool,
    targets: str,
    workloads: str,
    streams: str,
    rates: str,
    turns: int,
    threads: int,
    systems: str,
    llama_server: Path | None,
    out: Path | None,
) -> None:
    """Compare airdraft with its alternatives over HTTP.

    All systems get the same requests, in turns.

    \b
    Example:
      python -m bench peers --quick --out quick.json
    """
    from bench.load.workloads import PLAIN_NAMES
    from bench.peers.run import Plan, Target, all_peers, run_peers
    from nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET, Catalog, default_cache_dir
    from nodes.config.settings import environment

    known = {
        "Q8_0": (DEFAULT_TARGET, DEFAULT_DRAFT),
        "Q4_0": ("smollm2-135m-q4_0", DEFAULT_DRAFT),
        "1.5B Q4_K_M": ("qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b"),
    }
    kinds = workloads.split(",")
    _among("--targets", targets.split(","), known)
    _among("--workloads", kinds, (*PLAIN_NAMES, "json"))
    catalog = Catalog(default_cache_dir(environment()))
    plan = Plan(
        targets=[
            Target(name, *map(catalog.ensure, known[name]))
            for name in (["Q8_0"] if quick else targets.split(","))
        ],
        workloads=kinds[:1] if quick else kinds,
        streams=[1, 4] if quick else [int(part) for part in streams.split(",")],
        rates_per_s=[float(part) for part in rates.split(",") if part],
        num_turns=2 if quick else turns,
        num_threads=threads,
        is_quick=quick,
    )
    wanted = systems.split(",")
    known_peers = all_peers(is_quick=quick, native=llama_server)
    peers = [peer for peer in known_peers if any(part in peer.name for part in wanted)]
    if not peers:
        names = ", ".join(peer.name for peer in known_peers)
        raise click.UsageError(f"--systems: no name contains {systems}; systems: {names}")
    results = asyncio.run(run_peers(plan, peers, click.echo))
    keep(results, out)
    if any("failed" in cell.note for cell in results.cells):
        click.echo("some requests failed: see the lines above", err=True)
        sys.exit(1)


def _among(option: str, given: list[str], known: object) -> None:
    accepted = list(known)  # type: ignore[call-overload]
    if unknown := sorted(set(given) - set(accepted)):
        shown = ", ".join(unknown)
        raise click.UsageError(f"{option}: unknown: {shown}; use {', '.join(accepted)}")
