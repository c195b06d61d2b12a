"""Text in cells of a terminal: cut, filled up, and free of what a terminal would obey. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def shown(text: str) -> str:
    """What can be printed of a text that others chose; the rest, escapes too, as question marks."""
    return "".join(char if char.isprintable() else "?" for char in text)


def harmless(text: str) -> str:
    """A text of several lines without what would give a terminal commands."""
    return "".join(char for char in text if char.isprintable() or char in "\n\t")


def width_of(text: str) -> int:
    return sum(map(_cells, text))


def _cells(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, width: int) -> str:
    """The beginning of a text that fits; ~ says that there is more."""
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
    """Exactly so many cells; right: the text at the right end."""
    text = cut(text, width)
    space = " " * (width - width_of(text))
    return space + text if right else text + space


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. most: of its width. needs: what it takes at least, if less than that.
    spare: who goes first where there is no room; 0 never does."""

    title: str
    most: int = 12
    right: bool = False
    needs: int = 1000
    spare: int = 0


_GAP = "  "


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]], width: int) -> list[str]:
    """Title line and rows, columns as wide as what is in them; lines may be longer than width."""
    cells = [[column.title for column in columns], *([shown(cell) for cell in r] for r in rows)]
    found = [
        (column, min(column.most, max(width_of(row[index]) for row in cells)), index)
        for index, column in enumerate(columns)
    ]
    while sum(min(wide, column.needs) + len(_GAP) for column, wide, _ in found) > width + 2:
        last = max(found, key=lambda item: item[0].spare)
        if last[0].spare == 0:
            break
        found.remove(last)
    lines = []
    for row in cells:
        parts = [filled(row[index], wide, right=column.right) for column, wide, index in found]
        lines.append(_GAP.join(parts).rstrip())
    return lines


def fitted(lines: Sequence[str], most: int) -> list[str]:
    """The first lines; the last of them says how many are left out."""
    if len(lines) <= most:
        return list(lines)
    if most <= 0:
        return []
    return [*lines[: most - 1], f"... {len(lines) - most + 1} more"]
