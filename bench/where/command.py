"""`python -m bench where`: the parts of the time between tokens."""

from __future__ import annotations

import asyncio

import click

from bench.commands import draft_option, target_option
from bench.load.workloads import PLAIN_NAMES
from bench.results.options import COUNTS


@click.command("where")
@target_option
@draft_option
@click.option("--workload", "kind", type=click.Choice(PLAIN_NAMES), default="code")
@click.option("--streams", type=COUNTS, default="1,4,16")
@click.option("--max-tokens", type=click.IntRange(16), default=192)
def where_command(target: str, draft: str, kind: str, streams: list[int], max_tokens: int) -> None:
    """Measure where the time of a token goes.

    Each role is a process of its own. Those of target and draft have clocks inside.

    \b
    Example:
      python -m bench where --streams 1,4
    """
    from bench.asking import Pair
    from bench.load.workloads import workload
    from bench.where.run import Window, windows
    from bench.where.table import table

    pair = Pair(target, draft)
    made = workload(kind, max(streams))

    async def measured() -> list[Window]:
        engine, other = pair.settings()
        found: list[Window] = []
        for each in (other, None) if other is not None else (None,):
            found += await windows(
                engine, each, made, streams, max_tokens, lambda line: click.echo(line, err=True)
            )
        return sorted(found, key=lambda window: window.num_streams)

    click.echo(table(asyncio.run(measured())))
