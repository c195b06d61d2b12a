"""Draws a timeline as text, with a row for each draft node, each medium and the target."""

from __future__ import annotations

import math
from collections.abc import Sequence

from policies.explain.timeline import Lane, Span, Timeline

_MAX_LABEL = 20
_NUM_MARKS = 4
_LETTERS = "123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
IDLE, PLAIN = ".", "p"


def timeline_lines(timeline: Timeline, width: int) -> tuple[list[str], float]:
    """Returns rows of at most `width` characters with a scale as the last, and a column's seconds.

    A column shows the number of the batch (letters after 9) that takes most of its time.
    """
    labels = [_label(lane) for lane in timeline.lanes]
    margin = max(map(len, labels)) + 2
    columns = width - margin
    column_s = timeline.end_s / columns
    rows = [
        f"{label:<{margin}}{lane_text(lane.spans, column_s, columns)}"
        for label, lane in zip(labels, timeline.lanes, strict=True)
    ]
    return [*rows, " " * margin + _marks(column_s, columns)], column_s


def lane_text(spans: Sequence[Span], column_s: float, columns: int) -> str:
    """Returns a row: each column shows the span that takes most of it, if that is at least half.

    A shorter span is shown if its column would be empty otherwise.
    """
    text = [IDLE] * columns
    most_s = [column_s / 2] * columns
    for span in spans:
        for column, held_s in _columns(span, column_s, columns):
            # The next span must take strictly more, so that of two halves the first one is shown.
            if held_s >= most_s[column]:
                text[column], most_s[column] = _letter(span), math.nextafter(held_s, math.inf)
    for span in spans:
        held = _columns(span, column_s, columns)
        column, held_s = max(held, key=lambda pair: pair[1], default=(0, 0.0))
        if held_s > 0 and text[column] == IDLE:
            text[column] = _letter(span)
    return "".join(text)


def _columns(span: Span, column_s: float, columns: int) -> list[tuple[int, float]]:
    """Returns the columns that a span touches, with the seconds that it takes of each."""
    first = max(0, int(span.start_s / column_s))
    end = min(columns, int(span.end_s / column_s) + 1)
    return [
        (column, min(span.end_s, (column + 1) * column_s) - max(span.start_s, column * column_s))
        for column in range(first, end)
    ]


def _letter(span: Span) -> str:
    return PLAIN if span.batch == 0 else _LETTERS[(span.batch - 1) % len(_LETTERS)]


def _label(lane: Lane) -> str:
    label = f"{lane.kind} {lane.name}".strip()
    return label if len(label) <= _MAX_LABEL else label[: _MAX_LABEL - 1] + "~"


def _marks(column_s: float, columns: int) -> str:
    line = ""
    for mark in range(_NUM_MARKS):
        column = mark * columns // _NUM_MARKS
        unit = " ms" if mark == 0 else ""
        line = f"{line:<{column}}|{column * column_s * 1e3:.0f}{unit}"
    return line[:columns]
