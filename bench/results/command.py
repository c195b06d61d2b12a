"""`python -m bench report|benchmarks`: what was measured, as Markdown.

The page of measurements has its prose from a template, and tables from the data kept beside it.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Final

import click

from bench.pages.markdown import table
from bench.results.report import markdown, section
from bench.results.schema import ResultError, from_json

_KEPT: Final = Path(__file__).with_name("kept")
_PAGE: Final = Path(__file__).parents[2] / "docs" / "benchmarks.md"
# A line of the template that names a file with data.
_DATA: Final = re.compile(r"^\{\{(.+)\}\}$", re.MULTILINE)


@click.command("report")
@click.argument("result", type=click.Path(path_type=Path))
def report_command(result: Path) -> None:
    """Print a result as Markdown.

    \b
    Example:
      python -m bench report after.json > report.md
    """
    try:
        read = from_json(result.read_bytes())
    except OSError as error:
        raise click.ClickException(f"{result}: {error.strerror}") from None
    except ResultError as error:
        raise click.ClickException(f"{result}: {error}") from None
    click.echo(markdown(read), nl=False)


@click.command("benchmarks")
@click.option(
    "--check", is_flag=True, help="Write nothing; exit with code 1 if the page is out of date."
)
def benchmarks_command(check: bool) -> None:
    """Write docs/benchmarks.md from bench/results/kept.

    \b
    Example:
      python -m bench benchmarks --check
    """
    try:
        made = benchmarks()
    except (OSError, ResultError) as error:
        raise click.ClickException(str(error)) from None
    if not check:
        _PAGE.write_text(made)
    elif _PAGE.read_text() != made:
        raise click.ClickException(f"{_PAGE.name} is out of date: run python -m bench benchmarks")


def benchmarks(folder: Path = _KEPT) -> str:
    """Return the whole page. Raises OSError if a file that the template names is missing, and
    ResultError if one is not a result."""
    template = (folder / "benchmarks.md.in").read_text()
    return _DATA.sub(lambda match: _table(folder / match[1]), template)


def _table(path: Path) -> str:
    if path.suffix == ".json":
        return section(from_json(path.read_text())).strip()
    with path.open(newline="") as file:
        head, *rows = csv.reader(file)
    return table(head, rows)
