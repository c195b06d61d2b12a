"""Markdown from values, and the markers between which it stands in a page. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

Part = Callable[[], str]

# Of prose; a table has its rows in a line each.
_WIDTH: Final = 118
_PART: Final = re.compile(
    r"<!-- generated: (?P<name>[a-z ]+) -->\n.*?<!-- end -->\n", flags=re.DOTALL
)


class PageError(Exception):
    """The markers of a page are not those of the parts that are generated for it."""


def with_parts(page: str, parts: Mapping[str, Part]) -> str:
    """A page whose generated parts are made anew. Raises PageError."""
    found = [match["name"] for match in _PART.finditer(page)]
    if sorted(found) != sorted(parts):
        raise PageError(f"the page marks the parts {found}, generated are {[*parts]}")

    def made(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- generated: {name} -->\n\n{parts[name]().strip()}\n\n<!-- end -->\n"

    return _PART.sub(made, page)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def item(text: str) -> str:
    """An entry of a list, over as many lines as it takes."""
    return wrapped(text, "- ", "  ")


def wrapped(text: str, first: str = "", others: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()),
        _WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def code(value: object) -> str:
    return f"`{value}`"


def number(value: float) -> str:
    """As people read it: 65,536, 2^31 - 1."""
    for power in (31, 32, 53, 63, 64):
        if value in (2**power, -(2**power)):
            return ("-" if value < 0 else "") + f"2^{power}"
        if value == 2**power - 1:
            return f"2^{power} - 1"
    return f"{int(value):,}" if value == int(value) else f"{value:g}"
