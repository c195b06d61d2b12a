"""Lists as options of several commands, and the option `--out` of `peers`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from bench.results.schema import Results, to_json


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


def _in_a_folder(
    _context: click.Context, _parameter: click.Parameter, path: Path | None
) -> Path | None:
    """Refuse a path outside an existing folder before hours of measuring, not after them."""
    if path is not None and not path.parent.is_dir():
        raise click.BadParameter(f"{path.parent} is not an existing folder")
    return path


out_option = click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_in_a_folder,
    help="Write the result to this file as JSON.",
)


def keep(results: Results, path: Path | None) -> None:
    """Write a result to a path, or nothing if there is no path."""
    if path is None:
        return
    try:
        path.write_text(to_json(results), encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
