"""Prints an explanation in 80 columns: tables, a timeline, and the reason of each choice."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter

from policies.explain.drawing import IDLE, PLAIN, timeline_lines
from policies.explain.explanation import Explanation, ranges
from policies.plan import Batch, BatchTimes, StreamView

WIDTH = 80
_STREAMS_WIDTH = 17
_MAX_BATCH_ROWS = 16
# The simulated cycle is shown if it differs from the predicted one by more than this share.
_LEAST_SHOWN = 0.02


def text_of(explanation: Explanation, title: str) -> str:
    """Returns the whole explanation as text. title: name of the scenario."""
    sections = [
        _head(explanation, title),
        _batch_table(explanation),
        _summary(explanation),
        _policy_table(explanation),
        _timeline(explanation),
        _reasons(explanation),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _head(explanation: Explanation, title: str) -> list[str]:
    observation = explanation.observation
    nodes = len(observation.drafts)
    lines = _wrapped(
        f"{title}: {_count(len(observation.streams), 'stream')}, {_count(nodes, 'draft node')}; "
        f"policy {explanation.plan.policy}"
    )
    for _, views in groupby(observation.streams, key=lambda view: replace(view, stream_id=0)):
        same = list(views)
        view = same[0]
        parts = [
            f"acceptance {_acceptance(view)}",
            f"{_count(view.tokens_left, 'token')} left",
            f"draft {view.draft}" if view.draft is not None else "no draft node",
        ]
        if view.fixed_gamma is not None:
            parts.append(f"gamma {view.fixed_gamma} set by the client")
        if view.weight != 1:
            parts.append(f"weight {view.weight:g}")
        ids = [view.stream_id for view in same]
        lines += _wrapped(f"  {_streams(ids)}: {', '.join(parts)}")
    return lines


def _acceptance(view: StreamView) -> str:
    if not view.alphas:
        return f"{view.alpha:.2f}"
    shown = [f"{alpha:.2f}" for alpha in view.alphas]
    while len(shown) > 1 and shown[-1] == shown[-2]:
        shown.pop()
    return f"{', '.join(shown)} by position ({view.alpha:.2f} in all)"


def _batch_table(explanation: Explanation) -> list[str]:
    head = (
        "batch",
        "streams",
        "gamma",
        "draft ms",
        "air ms",
        "verify ms",
        "all ms",
        "tokens",
        "expected",
    )
    rows = [_row(head), "-" * WIDTH]
    times = explanation.prediction.batches
    expected = explanation.expected_tokens
    batches = explanation.plan.batches
    for m, batch in enumerate(batches[:_MAX_BATCH_ROWS]):
        figures = _batch_figures(times[m], expected[m])
        for part, (gamma, ids) in enumerate(_by_gamma(batch)):
            first = part == 0
            label = f"{m + 1}" if first else ""
            rows += _stream_rows(label, ids, str(gamma), figures if first else ())
    if len(batches) > _MAX_BATCH_ROWS:
        rows.append(f"and {len(batches) - _MAX_BATCH_ROWS} more batches")
    plain = explanation.plan.plain
    if plain:
        pass_ms = _ms(explanation.plain_pass_s)
        figures = ["-", "-", pass_ms, pass_ms, str(len(plain)), f"{len(plain)}.0"]
        rows += _stream_rows("plain", ranges(plain), "0", figures)
    return rows


def _batch_figures(times: BatchTimes, expected: float) -> list[str]:
    seconds = (times.draft_s, times.air_s, times.verify_s, times.round_s)
    return [*map(_ms, seconds), str(times.num_tokens), f"{expected:.1f}"]


def _by_gamma(batch: Batch) -> list[tuple[int, str]]:
    by_gamma: dict[int, list[int]] = {}
    for stream_id, gamma in zip(batch.stream_ids, batch.gammas, strict=True):
        by_gamma.setdefault(gamma, []).append(stream_id)
    return [(gamma, ranges(ids)) for gamma, ids in sorted(by_gamma.items())]


def _stream_rows(label: str, ids: str, gamma: str, figures: Sequence[str]) -> list[str]:
    pieces = textwrap.wrap(ids.replace(",", ", "), _STREAMS_WIDTH)
    rows = [_row((label, pieces[0].replace(", ", ","), gamma, *figures))]
    return rows + [_row(("", piece.replace(", ", ","))) for piece in pieces[1:]]


def _row(cells: Sequence[str]) -> str:
    widths = (-5, -_STREAMS_WIDTH, 5, 8, 7, 9, 7, 6, 8)
    parts = [
        f"{cell:<{-width}}" if width < 0 else f"{cell:>{width}}"
        for cell, width in zip(cells, widths, strict=False)
    ]
    return " ".join(parts).rstrip()


def _summary(explanation: Explanation) -> list[str]:
    prediction = explanation.prediction
    mean_ms = _ms(explanation.mean_token_s(prediction.price_s))
    waits = ", waiting for plain streams" if explanation.plan.min_cycle_s > 0 else ""
    return _wrapped(
        f"predicted: a cycle of {_ms(prediction.cycle_s)} ms{waits}, bound by "
        f"{prediction.bound}; price {mean_ms} ms a token (mean over streams, by weight); "
        f"{prediction.tokens_per_s:.1f} tokens/s"
    )


def _policy_table(explanation: Explanation) -> list[str]:
    lines = [f"{'policy':<26}{'ms a token':>11}{'relative':>10}{'tokens/s':>10}"]
    rejected = explanation.best_rejected
    for item in sorted(explanation.compared, key=lambda item: item.prediction.price_s):
        price_s = item.prediction.price_s
        if item.name == explanation.plan.policy:
            note = "<- chosen"
        elif item.is_same:
            note = "the same plan"
        elif rejected is not None and item.name == rejected.name:
            note = "best rejected"
        else:
            note = ""
        line = (
            f"{item.name:<26}{_ms(explanation.mean_token_s(price_s)):>11}"
            f"{_percent(explanation.relative(price_s)):>10}{item.prediction.tokens_per_s:>10.1f}"
        )
        lines.append(f"{line}  {note}".rstrip())
    return lines


def _timeline(explanation: Explanation) -> list[str]:
    plan, timeline = explanation.plan, explanation.timeline
    if not plan.batches:
        pass_ms = _ms(explanation.plain_pass_s)
        return [f"predicted: passes of the target one after another, {pass_ms} ms each"]
    lines, column_s = timeline_lines(timeline, WIDTH)
    cycles = timeline.end_s / explanation.prediction.cycle_s
    legend = f"predicted: {cycles:.0f} cycles, a column is {_ms(column_s)} ms, {IDLE} idle"
    if plan.plain:
        legend += f", {PLAIN} passes of plain streams only"
    simulated_s, cycle_s = timeline.cycle_s, explanation.prediction.cycle_s
    if simulated_s is not None and abs(simulated_s - cycle_s) > _LEAST_SHOWN * cycle_s:
        legend += f"; in this schedule a cycle takes {_ms(simulated_s)} ms"
    return [*_wrapped(legend), *lines]


def _reasons(explanation: Explanation) -> list[str]:
    texts = list(_choice_texts(explanation))
    for reason, ids in explanation.plain_groups():
        texts.append(f"{_streams(ids)} {'is' if len(ids) == 1 else 'are'} plain: {reason}")
    return ["why", *(line for text in texts for line in _wrapped(f"  {text}"))]


def _choice_texts(explanation: Explanation) -> Iterator[str]:
    """Yields the prices of changes batch by batch, then what would reverse the decision."""
    plan = explanation.plan
    by_batch = attrgetter("batch")
    for batch, found in groupby(sorted(explanation.changes, key=by_batch), by_batch):
        costs = [f"{change.what} {_dearer(explanation, change.price_s)}" for change in found]
        label = f"batch {batch}" if batch else "all batches" if plan.batches else "guesses"
        yield f"{label}: {', '.join(costs)}"
    rejected = explanation.best_rejected
    if rejected is not None:
        cost = _dearer(explanation, rejected.prediction.price_s)
        yield f"best rejected policy: {rejected.name}, {cost}"
    turning = explanation.turning_acceptance
    if turning is not None and explanation.acceptance is not None:
        what = "end below" if plan.batches else "begin at"
        yield (
            f"guesses would {what} a mean acceptance of {turning:.2f}; "
            f"here it is {explanation.acceptance:.2f}"
        )


def _dearer(explanation: Explanation, price_s: float) -> str:
    relative = explanation.relative(price_s)
    if abs(relative) < 5e-5:
        return "costs the same"
    return f"{abs(relative):.1%} {'dearer' if relative > 0 else 'cheaper'}"


def _percent(relative: float) -> str:
    return f"{relative:+.1%}"


def _ms(seconds: float) -> str:
    milliseconds = seconds * 1e3
    digits = ".1f" if milliseconds < 1e3 else ".0f" if milliseconds < 1e5 else ".2g"
    return f"{milliseconds:{digits}}"


def _streams(ids: Sequence[int]) -> str:
    return f"stream{'' if len(ids) == 1 else 's'} {ranges(ids)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _wrapped(text: str) -> list[str]:
    indent = " " * (len(text) - len(text.lstrip()) + 2)
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent)
