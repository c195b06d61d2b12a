"""`python -m bench where`: the parts of the time between tokens."""

from __future__ import annotations

import asyncio

import click

from bench.load.workloads import PLAIN_NAMES
from bench.results.options import COUNTS


@click.command("where")
@click.option("--target", help="Name or file of a model. Default: that of the catalogue.")
@click.option(
    "--draft", default="", help='Name or file of a model, or "none". Default: the target\'s draft.'
)
@click.option("--workload", "kind", type=click.Choice(PLAIN_NAMES), default="code")
@click.option("--streams", type=COUNTS, default="1,4,16", show_default=True)
@click.option("--max-tokens", type=click.IntRange(16), default=192, show_default=True)
def where_command(
    target: str | None, draft: str, kind: str, streams: list[int], max_tokens: int
) -> None:
    """Measure where the time of a token goes.

    Each role is a process of its own. Those of target and draft have clocks inside.

    \b
    Example:
      python -m bench where --streams 1,4
    """
    from bench.asking import Pair
    from bench.harness.fleet import FleetError
    from bench.load.workloads import workload
    from bench.where.run import Window, windows
    from bench.where.table import table
    from nodes.catalog import DEFAULT_TARGET

    pair = Pair(target or DEFAULT_TARGET, draft)
    made = workload(kind, max(streams))

    async def measured() -> list[Window]:
        engine, other = pair.settings()
        found: list[Window] = []
        for each in (other, None) if other is not None else (None,):
            found += await windows(
                engine, each, made, streams, max_tokens, lambda line: click.echo(line, err=True)
            )
        return sorted(found, key=lambda window: window.num_streams)

    try:
        found = asyncio.run(measured())
    except FleetError as error:
        raise click.ClickException(str(error)) from error
    click.echo(table(found))
