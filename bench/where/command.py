"""`python -m bench where`: the parts of the time between tokens."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from bench.load.workloads import PLAIN_NAMES


@click.command("where")
@click.option("--target", help="Name or file of a model. Default: that of the catalogue.")
@click.option(
    "--draft", default="", help='Name or file of a model, or "none". Default: the target\'s draft.'
)
@click.option("--workload", "kind", type=click.Choice(PLAIN_NAMES), default="code")
@click.option("--streams", default="1,4,16", show_default=True)
@click.option("--max-tokens", type=click.IntRange(16), default=192, show_default=True)
@click.option("--plot", "picture", type=click.Path(dir_okay=False, path_type=Path))
def where_command(
    target: str | None, draft: str, kind: str, streams: str, max_tokens: int, picture: Path | None
) -> None:
    """Measure where the time of a token goes.

    Each role is a process of its own. Those of target and draft have clocks inside.

    \b
    Example:
      python -m bench where --streams 1,4 --plot where.png
    """
    from bench.load.workloads import workload
    from bench.results.plots import missing
    from bench.speed import Pair
    from bench.where.run import WhereError, Window, windows
    from bench.where.table import plot, table
    from nodes.catalog import DEFAULT_TARGET

    if picture is not None and (reason := missing()):
        raise click.ClickException(reason)
    counts = [int(part) for part in streams.split(",")]
    pair = Pair(target or DEFAULT_TARGET, draft)
    made = workload(kind, max(counts))

    async def measured() -> list[Window]:
        engine, other = pair.settings()
        found: list[Window] = []
        for each in (other, None) if other is not None else (None,):
            found += await windows(
                engine, each, made, counts, max_tokens, lambda line: click.echo(line, err=True)
            )
        return sorted(found, key=lambda window: window.num_streams)

    try:
        found = asyncio.run(measured())
    except WhereError as error:
        raise click.ClickException(str(error)) from error
    click.echo(table(found))
    if picture is not None:
        plot(found, picture, f"{Path(pair.target).stem}, {made.name}: where a token's time goes")
