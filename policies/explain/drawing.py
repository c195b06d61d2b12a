"""A timeline as text: a row for each draft node, each medium and the target."""

from __future__ import annotations

import math
from collections.abc import Sequence

from policies.explain.timeline import Lane, Span, Timeline

_MAX_LABEL = 20
_NUM_MARKS = 4
_LETTERS = "123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
IDLE, PLAIN = ".", "p"


def timeline_lines(timeline: Timeline, width: int) -> tuple[list[str], float]:
    """Rows of at most `width` characters, the last one a scale, and the seconds of a column.

    A column shows the number of the batch (letters after 9) that holds most of it.
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
    """Whoever holds most of a column, if that is half of it; short spans where there is room."""
    text = [IDLE] * columns
    most_s = [column_s / 2] * columns
    for span in spans:
        for column, held_s in _columns(span, column_s, columns):
            # The least bit more than half: two halves of a column belong to the first.
            if held_s >= most_s[column]:
                text[column], most_s[column] = _letter(span), math.nextafter(held_s, math.inf)
    for span in spans:
        held = _columns(span, column_s, columns)
        column, held_s = max(held, key=lambda pair: pair[1], default=(0, 0.0))
        if held_s > 0 and text[column] == IDLE:
            text[column] = _letter(span)
    return "".join(text)


def _columns(span: Span, column_s: float, columns: int) -> list[tuple[int, float]]:
    """Columns that a span touches, and how much of each it holds."""
    first = max(0, int(span.start_s / column_s))
    end = min(columns, int(span.end_s / column_s) + 1)
    return [
        (
            column,
            min(span.end_s, (column + 1) * column_s) - max(span.start_s, column * column_s),
        )
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
