"""Fits text into the cells of a terminal and removes control characters from it. Pure."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def shown(text: str) -> str:
    """Replace characters that are not printable, escapes included, by question marks."""
    return "".join(char if char.isprintable() else "?" for char in text)


def harmless(text: str) -> str:
    """Remove characters that are not printable from a text, except newlines and tabs."""
    return "".join(char for char in text if char.isprintable() or char in "\n\t")


def width_of(text: str) -> int:
    return sum(map(_cells, text))


def _cells(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Cut a text to a width; ~ at its end shows that it was cut."""
    if width_of(text) <= width:
        return text
    kept, used = [], 0
    for char in text:
        used += _cells(char)
        if used > width - 1:
            break
        kept.append(char)
    return "".join(kept) + "~" if width > 0 else ""


def filled(text: str, width: int, *, right: bool = False) -> str:
    """Cut or pad a text to exactly `width` cells. right: align it to the right."""
    text = cut(text, width)
    space = " " * (width - width_of(text))
    return space + text if right else text + space


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. most: its maximum width. right: whether it is aligned to the right."""

    title: str
    most: int = 12
    right: bool = False


_GAP = "  "


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]], width: int) -> list[str]:
    """Title line and rows, with columns as wide as their content. Columns that do not fit into the
    width are left out, the last ones first."""
    cells = [[column.title for column in columns], *([shown(cell) for cell in r] for r in rows)]
    widths = [
        min(column.most, max(width_of(row[index]) for row in cells))
        for index, column in enumerate(columns)
    ]
    while len(widths) > 1 and sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        widths.pop()
    lines = []
    for row in cells:
        fit = zip(columns, row, widths, strict=False)
        parts = (filled(cell, wide, right=column.right) for column, cell, wide in fit)
        lines.append(_GAP.join(parts).rstrip())
    return lines


def fitted(lines: Sequence[str], most: int) -> list[str]:
    """Keep at most `most` lines; if some are left out, the last line says how many."""
    if len(lines) <= most:
        return list(lines)
    if most <= 0:
        return []
    return [*lines[: most - 1], f"... {len(lines) - most + 1} more"]
