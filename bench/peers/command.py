"""`python -m bench peers`: comparisons with alternatives to airdraft."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from bench.load.workloads import PLAIN_NAMES
from bench.results.options import COUNTS, NUMBERS, listed
from nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET

_PAIRS = {
    "Q8_0": (DEFAULT_TARGET, DEFAULT_DRAFT),
    "Q4_0": ("smollm2-135m-q4_0", DEFAULT_DRAFT),
    "1.5B Q4_K_M": ("qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b"),
}


def _in_a_folder(
    _context: click.Context, _parameter: click.Parameter, path: Path | None
) -> Path | None:
    """Refuse a path outside an existing folder before hours of measuring, not after them."""
    if path is not None and not path.parent.is_dir():
        raise click.BadParameter(f"{path.parent} is not an existing folder")
    return path


@click.command("peers")
@click.option("--quick", is_flag=True, help="Run two turns of a few cases, for about 3 minutes.")
@click.option(
    "--targets",
    type=listed(accepted=lambda: _PAIRS),
    default="Q8_0,Q4_0",
    help='Also "1.5B Q4_K_M", a real pair.',
)
@click.option(
    "--workloads",
    type=listed(accepted=lambda: (*PLAIN_NAMES, "json")),
    default="chat,copy,code-edit",
)
@click.option("--streams", type=COUNTS, default="1,4,16", help="Stream counts.")
@click.option(
    "--rates",
    type=NUMBERS,
    default="",
    show_default="none",
    help="Also run open loops with these request rates per second.",
)
@click.option("--turns", default=9, help="Turns of all systems, in changing order.")
@click.option("--threads", default=1, help="Engine threads of each system.")
@click.option(
    "--systems",
    type=listed(),
    default="",
    show_default="all",
    help="Run only systems whose names contain one of these parts.",
)
@click.option(
    "--llama-server",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="llama.cpp's server, compiled here (bench/METHODOLOGY.md), instead of the prebuilt one.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_in_a_folder,
    help="Write the result to this file as JSON.",
)
def peers_command(
    quick: bool,
    targets: list[str],
    workloads: list[str],
    streams: list[int],
    rates: list[float],
    turns: int,
    threads: int,
    systems: list[str],
    llama_server: Path | None,
    out: Path | None,
) -> None:
    """Compare airdraft with its alternatives over HTTP.

    All systems get the same requests, in turns.

    \b
    Example:
      python -m bench peers --quick --out quick.json
    """
    from bench.peers.run import Plan, Target, all_peers, run_peers
    from bench.results.schema import to_json
    from nodes.catalog import Catalog, default_cache_dir
    from nodes.config.settings import environment

    catalog = Catalog(default_cache_dir(environment()))
    plan = Plan(
        targets=[
            Target(name, *map(catalog.ensure, _PAIRS[name]))
            for name in (["Q8_0"] if quick else targets)
        ],
        workloads=workloads[:1] if quick else workloads,
        streams=[1, 4] if quick else streams,
        rates_per_s=rates,
        num_turns=2 if quick else turns,
        num_threads=threads,
        is_quick=quick,
    )
    known_peers = all_peers(is_quick=quick, native=llama_server)
    peers = [
        peer for peer in known_peers if not systems or any(part in peer.name for part in systems)
    ]
    if not peers:
        names = ", ".join(peer.name for peer in known_peers)
        raise click.UsageError(
            f"--systems: no name contains {', '.join(systems)}; systems: {names}"
        )
    results = asyncio.run(run_peers(plan, peers, click.echo))
    if out is not None:
        try:
            out.write_text(to_json(results), encoding="utf-8")
        except OSError as error:
            raise click.ClickException(f"{out}: {error.strerror}") from None
    if any("failed" in cell.note for cell in results.cells):
        click.echo("some requests failed: see the lines above", err=True)
        sys.exit(1)
