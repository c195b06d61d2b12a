"""`python -m bench where`: the parts of the time between tokens, as a table of windows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import click

from bench.asking import Pair
from bench.harness.report import head, row
from bench.load.workloads import PLAIN_NAMES, workload
from bench.options import draft_option, streams_option, target_option
from bench.where.node import STEP
from bench.where.run import Window, windows

# Consecutive parts of the work of the target's engine thread; with BETWEEN they add up to the time
# of a token.
PARTS: Final = {
    "the model's passes": "model",
    "sampling, checking guesses": "sampling",
    "choosing guesses": "choosing",
    "bytes of tokens, stops": "text",
    "cells of wrong guesses": "cache",
    "the rest of passes": STEP,
}
BETWEEN: Final = "between passes"


def parts_ms(window: Window, each: float) -> dict[str, float]:
    """Return the target's milliseconds by part of its work; the sum is all its time. each: factor
    from seconds to these milliseconds, such as those per token."""
    found = {
        label: window.target.get(f"seconds in {of}", 0.0) * each for label, of in PARTS.items()
    }
    return {**found, BETWEEN: window.target["at"] * each - sum(found.values())}


def figures_of(window: Window) -> dict[str, str]:
    """Return figures by their labels, in ms per token unless a label says otherwise.

    A mesh without a draft node has none of it, and one without such a link no round trip.
    """
    target, draft = window.target, window.draft
    num_tokens = max(1.0, target.get("tokens committed", 0.0))
    num_passes = max(1.0, target.get("calls of model", 0.0))
    each = 1e3 / num_tokens
    found = {
        "tokens a pass and stream": num_tokens / num_passes / window.num_streams,
        "positions a pass": target.get("tokens fed", 0.0) / num_passes,
        "ms a pass": 1e3 * target.get("seconds in model", 0.0) / num_passes,
        "**ms a token**": target["at"] * each,
        **{f"target: {label}": ms for label, ms in parts_ms(window, each).items()},
    }
    if draft is not None:
        for label, of in (
            ("its model", "model"),
            ("sampling", "sampling"),
            ("the rest of steps", STEP),
        ):
            found[f"beside: draft, {label}"] = draft.get(f"seconds in {of}", 0.0) * each
        busy_s = sum(s for name, s in draft.items() if name.startswith("seconds in "))
        found["draft: ms a step"] = 1e3 * busy_s / max(1.0, draft.get(f"calls of {STEP}", 0.0))
        found["draft: share of the time"] = busy_s / draft["at"]
    found["processor: target's messages"] = (target["cpu_s"] - target["engine_cpu_s"]) * each
    found |= {f"processor: {role}": seconds * each for role, seconds in window.cpu_s.items()}
    found |= {f"link: round trip to the {role}, ms": 1e3 * s for role, s in window.rtt_s.items()}
    shown = {label: f"{value:.2f}" for label, value in found.items()}
    return {"tokens/s, all streams": f"{num_tokens / target['at']:.1f}", **shown}


def table(windows: Sequence[Window]) -> str:
    """Return a table with a column for each window."""
    plain = ("with guesses", "plain")
    names = (f"{window.num_streams}, {plain[window.draft is None]}" for window in windows)
    columns = [figures_of(window) for window in windows]
    labels = max((list(column) for column in columns), key=len)
    rows = (row(label, *(column.get(label, "-") for column in columns)) for label in labels)
    return "\n".join([head("streams", *names), *rows])


@click.command("where")
@target_option
@draft_option
@click.option("--workload", "kind", type=click.Choice(PLAIN_NAMES), default="code")
@streams_option("1,4,16")
@click.option("--max-tokens", type=click.IntRange(16), default=192)
def where_command(target: str, draft: str, kind: str, streams: list[int], max_tokens: int) -> None:
    """Measure where the time of a token goes.

    Each role is a process of its own. Those of target and draft have clocks inside.

    \b
    Example:
      python -m bench where --streams 1,4
    """
    prompts = workload(kind, max(streams)).prompts
    engine, other = Pair(target, draft).settings()
    found: list[Window] = []
    for each in dict.fromkeys((other, None)):
        found += asyncio.run(windows(engine, each, prompts, streams, max_tokens))
    click.echo(table(sorted(found, key=lambda window: window.num_streams)))
