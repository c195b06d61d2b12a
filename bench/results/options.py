"""Options that several commands have in common: lists, `--out` and `--quick`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from bench.results.schema import Results, to_json


class Listed(click.ParamType):
    """Values separated by commas, as a list. accepted: returns the only ones that may be given."""

    name = "list"

    def __init__(
        self,
        kind: Callable[[str], Any] = str,
        accepted: Callable[[], Iterable[Any]] | None = None,
    ) -> None:
        self._kind, self._accepted = kind, accepted

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[Any]:
        if not isinstance(value, str):
            return list(value)
        try:
            found = [self._kind(part) for part in value.split(",") if part]
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers with commas between them", param, ctx)
        known = [] if self._accepted is None else list(self._accepted())
        if known and (unknown := [each for each in found if each not in known]):
            names, accepted = (", ".join(map(str, each)) for each in (unknown, known))
            self.fail(f"unknown: {names}; use {accepted}", param, ctx)
        return found


COUNTS = Listed(int)
NUMBERS = Listed(float)


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
quick_option = click.option(
    "--quick",
    is_flag=True,
    help="Measure a few small cases in less than a minute; overrides other options.",
)


def keep(results: Results, path: Path | None) -> None:
    """Write a result to a path, or nothing if there is no path."""
    if path is None:
        return
    try:
        path.write_text(to_json(results), encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
