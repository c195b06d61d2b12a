"""`airdraft trace`: records for some seconds what a running coordinator does."""

import asyncio
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from nodes.cli.connection import with_client
from nodes.cli.options import FILE, FiniteRange, mesh_options, verbose_option
from nodes.cli.output_file import write_output
from nodes.cli.plan import policy_option
from nodes.client.client import Client
from nodes.config.settings import ConfigError
from nodes.messages import TraceReply
from nodes.service.runtime import run_to_end, set_up_logging
from nodes.telemetry.counts import Ratios
from nodes.telemetry.trace.chrome import chrome_trace
from nodes.telemetry.trace.records import KINDS, PassRecord, PlanRecord, Record, from_line
from policies.baselines import POLICIES
from policies.explain import ranges
from policies.plan import Batch, Plan, Policy

_POLL_S = 0.25
_MAX_BATCHES_SHOWN = 4


@click.group("trace", invoke_without_command=True)
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
    help="Write the records, one JSON object per line, for `airdraft trace replan`.",
)
@mesh_options
@verbose_option
@click.pass_context
def trace_group(context: click.Context, /, **values: Any) -> None:
    """Record plans, passes and guesses of a running mesh, and write them to files.

    Records contain stream ids, counts and times, but never text or tokens. If links have keys, the
    key needs the role admin.

    \b
    Examples:
      airdraft trace --seconds 10 --output trace.json
      airdraft trace --raw trace.jsonl
      airdraft trace replan trace.jsonl --policy max-batch
    """
    if context.invoked_subcommand is not None:
        return
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
            _write(raw, lines)
    finally:
        # A file that cannot be written does not cost the other one.
        records = _records(lines)
        if output is not None:
            _write(output, json.dumps(chrome_trace(records), allow_nan=False).encode())
        click.echo(summary(records, sum(reply.num_lost for reply in replies)), err=True)


def _write(path: Path, data: bytes) -> None:
    try:
        write_output(path, data)
    except OSError as error:
        why = f"{path} cannot be written: {error.strerror}"
        raise click.ClickException(f"{why}: give another path") from error


def _records(lines: bytes) -> list[Record]:
    try:
        return [from_line(line) for line in lines.splitlines()]
    except ValueError as error:
        says = "use the version of airdraft that the coordinator has"
        raise click.ClickException(f"a record cannot be read: {error}; {says}") from None


def summary(records: Sequence[Record], num_lost: int) -> str:
    counts = Counter(map(type, records))
    shown = (f"{counts[KINDS[kind]]} of {kind}" for kind in ("plan", "guesses", "pass"))
    text = f"{len(records)} records: {', '.join(shown)}"
    text += f"; {num_lost} lost" if num_lost else ""
    # Records do not have the observed prices of plans.
    ratios = Ratios()
    for record in records:
        if isinstance(record, PassRecord):
            ratios.observe(record.pass_s, record.predicted_s)
    if (errors := ratios.errors()).num_seen:
        text += f"\nerrors of {errors.num_seen} predicted passes: median {errors.median:.1%}, "
        text += f"95th percentile {errors.p95:.1%}"
    return text


async def poll(client: Client, seconds: float, replies: list[TraceReply]) -> None:
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


@trace_group.command("replan")
@click.argument("path", metavar="FILE.jsonl", type=FILE)
@policy_option
def replan_command(path: Path, policy: str) -> None:
    """Plan recorded observations again, and compare the result with the recorded plans.

    Prices are predictions: the sum over all streams of seconds per token. A recorded plan is the
    result of the joint planner. It was in force only if it beat open flow, in which no stream waits
    for another.

    \b
    Example:
      airdraft trace replan trace.jsonl --policy alternating
    """
    found = replan(_plans_of(path), POLICIES[policy])
    if not found:
        raise click.UsageError(f"{path} has no plan with streams: record while streams are decoded")
    click.echo(table_of(found, policy))


def _plans_of(path: Path) -> list[PlanRecord]:
    plans = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = from_line(line)
        except ValueError as error:
            says = "a file that `airdraft trace --raw` wrote is accepted"
            raise ConfigError(f"{path}, line {number}: {error}; {says}") from None
        if isinstance(record, PlanRecord):
            plans.append(record)
    return plans


# -- recorded plans beside those of another policy -------------------------------------------------


def replan(records: Iterable[PlanRecord], policy: Policy) -> list[tuple[PlanRecord, Plan]]:
    """Return a policy's plan for each record; observations without a plan are left out."""
    found = []
    for record in records:
        if record.prediction is None or not record.observation.streams:
            continue
        plan = policy(record.observation)
        if plan.prediction is not None:
            found.append((record, plan))
    return found


def price_s(made: PlanRecord | Plan) -> float:
    """Return the predicted price of a plan that has one."""
    assert made.prediction is not None
    return made.prediction.price_s


def table_of(replanned: Sequence[tuple[PlanRecord, Plan]], policy: str) -> str:
    """Return a table of 80 columns: for each record its own plan and the policy's."""
    origin_s = replanned[0][0].at_s
    lines = [f"{'at s':>7} {'streams':>7}  {'plan':<25}{'price ms':>9} {'ratio':>6}  batches"]
    ratios = []
    for record, plan in replanned:
        # Below 1.0 the other plan is cheaper.
        ratio = price_s(plan) / price_s(record)
        ratios.append(ratio)
        head = f"{record.at_s - origin_s:>7.2f} {len(record.observation.streams):>7}"
        lines += _rows(head, f"recorded ({record.policy})", record, 1.0)
        lines += _rows(f"{'':15}", policy, plan, ratio)
    mean = math.exp(np.mean(np.log(ratios)))
    lines += [
        "",
        f"{policy} to recorded, {len(ratios)} plans: prices {mean:.3f} on average (geometric), "
        f"{min(ratios):.3f} to {max(ratios):.3f}",
    ]
    return "\n".join(lines)


def _rows(head: str, name: str, made: PlanRecord | Plan, ratio: float) -> list[str]:
    """Return the row of a plan with its first batch, and the other batches on lines below."""
    head = f"{head}  {name:<25}{price_s(made) * 1e3:>9.2f} {ratio:>6.3f}"
    shown = [_batch(batch) for batch in made.batches[:_MAX_BATCHES_SHOWN]]
    if len(made.batches) > len(shown):
        shown.append(f"and {len(made.batches) - len(shown)} more")
    if made.plain:
        shown.append(f"plain {ranges(made.plain)}")
    first, *rest = shown
    return [f"{head}  {first}", *(f"{'':{len(head)}}  {text}" for text in rest)]


def _batch(batch: Batch) -> str:
    """Return streams with their gammas, such as `1-3,7: 4 4 4 2`; one gamma if all are equal.

    Both are in the order of the streams, which may differ from that of the batch.
    """
    pairs = sorted(zip(batch.stream_ids, batch.gammas, strict=True))
    gammas = [gamma for _, gamma in pairs]
    shown = gammas[:1] if len(set(gammas)) == 1 else gammas
    return f"{ranges(batch.stream_ids)}: {' '.join(map(str, shown))}"
