"""The peers of a quick whole run: airdraft, and llama.cpp's server plainly; one stream, two turns.

python -m bench.whole.few_peers --out FILE
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from bench.peers.airdraft import Airdraft
from bench.peers.llama_server import LlamaServer
from bench.peers.peer import Peer
from bench.peers.run import OWN, Plan, Target, run_peers
from bench.results.options import keep, out_option
from nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET, Catalog, default_cache_dir
from nodes.config.settings import environment
from nodes.service.runtime import set_engine_environment


@click.command()
@out_option
def few_peers(out: Path | None) -> None:
    catalog = Catalog(default_cache_dir(environment()))
    plan = Plan(
        targets=[Target("Q8_0", *map(catalog.ensure, (DEFAULT_TARGET, DEFAULT_DRAFT)))],
        workloads=["chat"],
        streams=[1],
        num_turns=2,
        is_quick=True,
    )
    peers: list[Peer] = [OWN, Airdraft(drafts="none"), LlamaServer("plain")]
    results = asyncio.run(run_peers(plan, peers, click.echo))
    keep(results, out)
    if OWN.name not in {cell.system for cell in results.cells}:
        click.echo(f"{OWN.name} did not run: {'; '.join(results.skipped)}", err=True)
        sys.exit(1)
    if any("failed" in cell.note for cell in results.cells):
        click.echo("some requests failed", err=True)
        sys.exit(1)


if __name__ == "__main__":
    set_engine_environment()
    few_peers()
