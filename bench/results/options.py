"""Lists as options of several commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click


def listed(
    kind: Callable[[str], Any] = str, accepted: Callable[[], Iterable[Any]] | None = None
) -> Callable[[str], list[Any]]:
    """Return an option's type: values with commas between them. accepted: returns the only ones."""

    def values(text: str) -> list[Any]:
        try:
            found = [kind(part) for part in text.split(",") if part]
        except ValueError:
            message = f"{text!r} is not a list of numbers with commas between them"
            raise click.BadParameter(message) from None
        known = list(accepted()) if accepted is not None else found
        if unknown := [each for each in found if each not in known]:
            names, usable = (", ".join(map(str, each)) for each in (unknown, known))
            raise click.BadParameter(f"unknown: {names}; use {usable}")
        return found

    return values


COUNTS = listed(int)
NUMBERS = listed(float)
