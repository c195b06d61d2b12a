"""Prints an explanation in 80 columns: tables, a timeline, and the reason of each choice."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby

from policies.explain.drawing import IDLE, PLAIN, timeline_lines
from policies.explain.explanation import ExplainedBatch, Explanation
from policies.plan import Observation, StreamView

WIDTH = 80
_STREAMS_WIDTH = 17
_MAX_BATCH_ROWS = 16
# The simulated cycle is shown if it differs from the predicted one by more than this share.
_LEAST_SHOWN = 0.02
_BATCH_ROW = "{:<5} {:<17} {:>5} {:>8} {:>7} {:>9} {:>7} {:>6} {:>8}"
_BATCH_HEAD = (
    *("batch", "streams", "gamma", "draft ms", "air ms"),
    *("verify ms", "all ms", "tokens", "expected"),
)


def text_of(explanation: Explanation, observation: Observation, title: str) -> str:
    """Returns the whole explanation of a plan as text. title: name of the scenario."""
    sections = [
        _head(explanation, observation, title),
        _batch_table(explanation),
        _summary(explanation),
        _policy_table(explanation),
        _timeline(explanation),
        ["why", *(line for text in _reasons(explanation) for line in _wrapped(f"  {text}"))],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections)


def ranges(numbers: Iterable[int]) -> str:
    """Returns numbers as text, such as 1-4,7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{a}-{b}" if b > a else f"{a}" for a, b in runs)


def _head(explanation: Explanation, observation: Observation, title: str) -> list[str]:
    streams = _count(len(observation.streams), "stream")
    nodes = _count(len(observation.drafts), "draft node")
    lines = _wrapped(f"{title}: {streams}, {nodes}; policy {explanation.policy}")
    for view, same in groupby(observation.streams, key=lambda view: replace(view, stream_id=0)):
        parts = [
            f"acceptance {_acceptance(view)}",
            f"{_count(view.tokens_left, 'token')} left",
            f"draft {view.draft}" if view.draft is not None else "no draft node",
        ]
        if view.fixed_gamma is not None:
            parts.append(f"gamma {view.fixed_gamma} set by the client")
        if view.weight != 1:
            parts.append(f"weight {view.weight:g}")
        lines += _wrapped(f"  {_streams([v.stream_id for v in same])}: {', '.join(parts)}")
    return lines


def _acceptance(view: StreamView) -> str:
    if not view.alphas:
        return f"{view.alpha:.2f}"
    shown = [f"{alpha:.2f}" for alpha in view.alphas]
    while len(shown) > 1 and shown[-1] == shown[-2]:
        shown.pop()
    return f"{', '.join(shown)} by position ({view.alpha:.2f} in all)"


def _batch_table(explanation: Explanation) -> list[str]:
    lines = [_BATCH_ROW.format(*_BATCH_HEAD), "-" * WIDTH]
    for m, batch in enumerate(explanation.batches[:_MAX_BATCH_ROWS]):
        lines += _batch_rows(f"{m + 1}", batch)
    if len(explanation.batches) > _MAX_BATCH_ROWS:
        lines.append(f"and {len(explanation.batches) - _MAX_BATCH_ROWS} more batches")
    plain = [stream_id for group in explanation.plain for stream_id in group.streams]
    if plain:
        pass_ms, num = _ms(explanation.plain_pass_s), len(plain)
        lines += _rows("plain", plain, 0, "-", "-", pass_ms, pass_ms, num, f"{num}.0")
    return lines


def _batch_rows(label: str, batch: ExplainedBatch) -> Iterator[str]:
    """Yields the rows of a batch, by gamma; the first has the figures of the whole batch."""
    seconds = batch.draft_s, batch.air_s, batch.verify_s, batch.round_s
    figures = [*map(_ms, seconds), batch.num_tokens, f"{batch.expected_tokens:.1f}"]
    for gamma in sorted(set(batch.gammas)):
        pairs = zip(batch.streams, batch.gammas, strict=True)
        yield from _rows(label, [s for s, g in pairs if g == gamma], gamma, *figures)
        label, figures = "", [""] * len(figures)


def _rows(label: str, stream_ids: Iterable[int], *figures: object) -> Iterator[str]:
    """Yields a row, and others below it where its streams do not fit."""
    for piece in textwrap.wrap(ranges(stream_ids).replace(",", ", "), _STREAMS_WIDTH):
        yield _BATCH_ROW.format(label, piece.replace(", ", ","), *figures).rstrip()
        label, figures = "", ("",) * len(figures)


def _summary(explanation: Explanation) -> list[str]:
    waits = ", waiting for plain streams" if explanation.bound == "plain streams" else ""
    return _wrapped(
        f"predicted: a cycle of {_ms(explanation.cycle_s)} ms{waits}, bound by "
        f"{explanation.bound}; price {_ms(explanation.mean_token_s)} ms a token (mean over "
        f"streams, by weight); {explanation.tokens_per_s:.1f} tokens/s"
    )


def _policy_table(explanation: Explanation) -> list[str]:
    lines = [f"{'policy':<26}{'ms a token':>11}{'relative':>10}{'tokens/s':>10}"]
    for item in sorted(explanation.policies, key=lambda item: item.price_s):
        note = "the same plan" if item.same_plan else ""
        if item.name == explanation.policy:
            note = "<- chosen"
        elif item.name == explanation.best_rejected:
            note = "best rejected"
        line = (
            f"{item.name:<26}{_ms(item.mean_token_s):>11}{item.relative:>+10.1%}"
            f"{item.tokens_per_s:>10.1f}  {note}"
        )
        lines.append(line.rstrip())
    return lines


def _timeline(explanation: Explanation) -> list[str]:
    if not explanation.batches:
        pass_ms = _ms(explanation.plain_pass_s)
        return [f"predicted: passes of the target one after another, {pass_ms} ms each"]
    timeline, cycle_s = explanation.timeline, explanation.cycle_s
    lines, column_s = timeline_lines(timeline, WIDTH)
    cycles = timeline.end_s / cycle_s
    legend = f"predicted: {cycles:.0f} cycles, a column is {_ms(column_s)} ms, {IDLE} idle"
    if explanation.plain:
        legend += f", {PLAIN} passes of plain streams only"
    simulated_s = timeline.cycle_s
    if simulated_s is not None and abs(simulated_s - cycle_s) > _LEAST_SHOWN * cycle_s:
        legend += f"; in this schedule a cycle takes {_ms(simulated_s)} ms"
    return [*_wrapped(legend), *lines]


def _reasons(explanation: Explanation) -> Iterator[str]:
    """Yields the prices of changes, what would reverse the decision, and why streams are plain."""
    for number in range(len(explanation.batches) + 1):
        found = [change for change in explanation.changes if change.batch == number]
        costs = ", ".join(f"{change.what} {_dearer(change.relative)}" for change in found)
        label = "all batches" if explanation.batches else "guesses"
        if found:
            yield f"{f'batch {number}' if number else label}: {costs}"
    for item in explanation.policies:
        if item.name == explanation.best_rejected:
            yield f"best rejected policy: {item.name}, {_dearer(item.relative)}"
    turning = explanation.turning_acceptance
    if turning is not None:
        what = "end below" if explanation.batches else "begin at"
        yield (
            f"guesses would {what} a mean acceptance of {turning:.2f}; "
            f"here it is {explanation.acceptance:.2f}"
        )
    for group in explanation.plain:
        are = "is" if len(group.streams) == 1 else "are"
        yield f"{_streams(group.streams)} {are} plain: {group.reason}"


def _dearer(relative: float) -> str:
    if abs(relative) < 5e-5:
        return "costs the same"
    return f"{abs(relative):.1%} {'dearer' if relative > 0 else 'cheaper'}"


def _ms(seconds: float) -> str:
    milliseconds = seconds * 1e3
    digits = ".1f" if milliseconds < 1e3 else ".0f" if milliseconds < 1e5 else ".2g"
    return f"{milliseconds:{digits}}"


def _streams(ids: Iterable[int]) -> str:
    shown = ranges(ids)
    return f"stream{'' if shown.isdigit() else 's'} {shown}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _wrapped(text: str) -> list[str]:
    indent = " " * (len(text) - len(text.lstrip()) + 2)
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent)
