"""`airdraft trace`: records for some seconds what a running coordinator does."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from airdraft.nodes.cli.connection import with_client
from airdraft.nodes.cli.options import FiniteRange, mesh_options, verbose_option
from airdraft.nodes.cli.output_file import write_output
from airdraft.nodes.client.client import MeshClient
from airdraft.nodes.messages import TraceReply
from airdraft.nodes.service.runtime import run_to_end, set_up_logging
from airdraft.nodes.telemetry.trace.chrome import chrome_trace
from airdraft.nodes.telemetry.trace.records import KINDS, Record, from_line

_POLL_S = 0.25


@click.command("trace")
@click.option(
    "--seconds",
    type=FiniteRange(0, 3600, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds to record.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.json",
    help="Write a timeline for ui.perfetto.dev or chrome://tracing.",
)
@click.option(
    "--raw",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.jsonl",
    help="Write the records, one JSON object per line.",
)
@mesh_options
@verbose_option
def trace_command(**values: Any) -> None:
    """Record plans, passes and guesses of a running mesh, and write them to files.

    Records contain stream ids, counts and times, but never text or tokens. If links have keys, the
    key needs the role admin.

    \b
    Examples:
      airdraft trace --seconds 10 --output trace.json
      airdraft trace --raw trace.jsonl
    """
    set_up_logging(values["verbose"])
    output, raw = values["output"], values["raw"]
    if output is None and raw is None:
        raise click.UsageError(
            "nothing to write: give --output FILE.json, --raw FILE.jsonl or both"
        )
    if output is not None and raw is not None and output.resolve() == raw.resolve():
        raise click.UsageError(f"--output and --raw are both {output}: give two files")
    for path in (output, raw):
        # Check this before recording, because the recording would be lost.
        if path is not None and not path.parent.is_dir():
            raise click.UsageError(f"{path}: there is no directory {path.parent}: create it")
    connect, keys, seconds = values["connect"], values["keys"], values["seconds"]
    replies: list[TraceReply] = []
    try:
        work = partial(poll, seconds=seconds, replies=replies)
        run_to_end(lambda: with_client(connect, keys, work, role="admin"))
    finally:
        # If the coordinator was lost or a user stopped it, what was recorded until then counts.
        if replies:
            _save(replies, output, raw)


def _save(replies: Sequence[TraceReply], output: Path | None, raw: Path | None) -> None:
    lines = b"".join(reply.records for reply in replies)
    try:
        if raw is not None:
            write_output(raw, lines)
    finally:
        # A file that cannot be written does not cost the other one.
        records = _records(lines)
        if output is not None:
            write_output(output, json.dumps(chrome_trace(records), allow_nan=False).encode())
        click.echo(summary(records, sum(reply.num_lost for reply in replies)), err=True)


def _records(lines: bytes) -> list[Record]:
    try:
        return [from_line(line) for line in lines.splitlines()]
    except ValueError as error:
        says = "use the version of airdraft that the coordinator has"
        raise click.ClickException(f"a record cannot be read: {error}; {says}") from None


def summary(records: Sequence[Record], num_lost: int) -> str:
    counts = Counter(map(type, records))
    shown = (f"{counts[KINDS[kind]]} of {kind}" for kind in ("plan", "guesses", "pass"))
    lost = f"; {num_lost} lost" if num_lost else ""
    return f"{len(records)} records: {', '.join(shown)}{lost}"


async def poll(client: MeshClient, seconds: float, replies: list[TraceReply]) -> None:
    """Append the replies with the records of the next `seconds` seconds."""
    loop = asyncio.get_running_loop()
    reply = await client.trace(-1)
    ends_at = loop.time() + seconds
    while True:
        # Read the clock before the next request, which then fetches all records up to the end.
        is_over = loop.time() >= ends_at
        replies.append(reply)
        if not reply.has_more:
            if is_over:
                break
            await asyncio.sleep(min(_POLL_S, max(0.0, ends_at - loop.time())))
        reply = await client.trace(reply.last)
