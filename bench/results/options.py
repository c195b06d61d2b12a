"""Options that commands with results have in common: `--out` and `--quick`."""

from __future__ import annotations

from pathlib import Path

import click

from bench.results.schema import Results, to_json


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
