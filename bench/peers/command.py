"""`python -m bench peers|compare|benchmarks`: comparisons with alternatives to airdraft."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from bench.results.schema import ResultError, Results, from_json, to_json

_ROOT = Path(__file__).parents[2]


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
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the result to this file as JSON.",
)
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
    if out is not None:
        out.write_text(to_json(results))
    if any("failed" in cell.note for cell in results.cells):
        click.echo("some requests failed: see the lines above", err=True)
        sys.exit(1)


def _among(option: str, given: list[str], known: object) -> None:
    accepted = list(known)  # type: ignore[call-overload]
    if unknown := sorted(set(given) - set(accepted)):
        shown = ", ".join(unknown)
        raise click.UsageError(f"{option}: unknown: {shown}; use {', '.join(accepted)}")


def _read(path: Path) -> Results:
    try:
        return from_json(path.read_text())
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
    except ResultError as error:
        raise click.ClickException(f"{path}: {error}") from None


@click.command("compare")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
def compare_command(old: Path, new: Path) -> None:
    """Show which cases became slower between two results.

    They are judged by the ratios within each result. The exit code is 1 if a case became slower or
    is missing in the new result.

    \b
    Example:
      python -m bench compare before.json after.json
    """
    from bench.results.comparing import compare, table

    found = compare(_read(old), _read(new))
    click.echo(table(found))
    sys.exit(1 if found.num_worse or found.missing else 0)


@click.command("benchmarks")
@click.option(
    "--check", is_flag=True, help="Write nothing; exit with code 1 if the page is out of date."
)
def benchmarks_command(check: bool) -> None:
    """Write docs/benchmarks.md from bench/results/kept.

    \b
    Example:
      python -m bench benchmarks --check
    """
    from bench.results.page import PAGE, benchmarks

    try:
        made = benchmarks()
    except (OSError, ResultError) as error:
        raise click.ClickException(str(error)) from None
    if not check:
        PAGE.write_text(made)
    elif PAGE.read_text() != made:
        raise click.ClickException(f"{PAGE.name} is out of date: run python -m bench benchmarks")
