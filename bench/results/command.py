"""`python -m bench report|benchmarks`: what was measured, as Markdown.

The page of measurements has its prose from a template, and all tables from the data kept beside it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import click

from bench.pages.markdown import PageError, with_parts
from bench.results.headline import headline
from bench.results.kept import KEPT, Kept
from bench.results.schema import ResultError, from_lines
from bench.results.tables import section

_ROOT: Final = Path(__file__).parents[2]
_PAGE: Final = Path("docs", "benchmarks.md")
_README: Final = Path("README.md")
_EQUAL_CORES: Final = "equal-cores.jsonl"
# A line of the template that names a file with data.
_DATA: Final = re.compile(r"^\{\{(.+)\}\}$", re.MULTILINE)


@click.command("report")
@click.argument("result", type=click.Path(path_type=Path))
def report_command(result: Path) -> None:
    """Print a result of `equal-cores` as Markdown.

    \b
    Example:
      python -m bench report equal-cores.jsonl > report.md
    """
    try:
        read = from_lines(result.read_bytes())
    except OSError as error:
        raise click.ClickException(f"{result}: {error.strerror}") from None
    except ResultError as error:
        raise click.ClickException(f"{result}: {error}") from None
    click.echo(section(read), nl=False)


@click.command("benchmarks")
@click.option(
    "--check", is_flag=True, help="Write nothing; exit with code 1 if a page is out of date."
)
def benchmarks_command(check: bool) -> None:
    """Write docs/benchmarks.md, and the table of README.md, from bench/results/kept.

    \b
    Example:
      python -m bench benchmarks --check
    """
    try:
        readme = (_ROOT / _README).read_text()
        made = {
            _PAGE: benchmarks(),
            _README: with_parts(readme, {"measured": lambda: headline(KEPT, _EQUAL_CORES)}),
        }
    except (OSError, PageError, ResultError) as error:
        raise click.ClickException(str(error)) from None
    for path, text in made.items():
        if not check:
            (_ROOT / path).write_text(text)
        elif (_ROOT / path).read_text() != text:
            raise click.ClickException(f"{path} is out of date: run python -m bench benchmarks")


def benchmarks(folder: Path = KEPT) -> str:
    """Returns the whole page. Raises OSError if a file that the template names is missing, and
    ResultError if one is no table and no result."""
    template = (folder / "benchmarks.md.in").read_text()
    return _DATA.sub(lambda match: _table(folder / match[1]), template)


def _table(path: Path) -> str:
    if path.name == _EQUAL_CORES:
        return section(from_lines(path.read_bytes())).strip()
    return Kept(path).table()
