"""What commands that make results have in common: `--out` and `--quick`."""

from __future__ import annotations

from pathlib import Path

import click

from bench.results.schema import Results, to_json


def _in_a_folder(
    _context: click.Context, _parameter: click.Parameter, path: Path | None
) -> Path | None:
    """Said before hours of measuring, not after them."""
    if path is not None and not path.parent.is_dir():
        raise click.BadParameter(f"{path.parent} is no folder")
    return path


out_option = click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_in_a_folder,
    help="Result as JSON.",
)
quick_option = click.option(
    "--quick", is_flag=True, help="A few small cells in less than a minute, whatever is said else."
)


def keep(results: Results, path: Path | None) -> None:
    """Write a result where one is wanted."""
    if path is None:
        return
    try:
        path.write_text(to_json(results), encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
