"""`python -m bench report|compare|benchmarks`: what was measured, as Markdown."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.results.schema import ResultError, Results, from_json


def _read(path: Path) -> Results:
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
    except ResultError as error:
        raise click.ClickException(f"{path}: {error}") from None


@click.command("report")
@click.argument("result", type=click.Path(path_type=Path))
def report_command(result: Path) -> None:
    """Print a result as Markdown.

    \b
    Example:
      python -m bench report after.json > report.md
    """
    from bench.results.report import markdown

    click.echo(markdown(_read(result)), nl=False)


@click.command("compare")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
def compare_command(old: Path, new: Path) -> None:
    """Show which cases became slower between two results.

    They are judged by the ratios within each result. The exit code is 1 if a case became slower or
    is missing in the new result.

    \b
    Example:
      python -m bench compare before.json after.json
    """
    from bench.results.comparing import compare, table

    found = compare(_read(old), _read(new))
    click.echo(table(found))
    sys.exit(1 if found.num_worse or found.missing else 0)


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
    from bench.results.page import PAGE, benchmarks

    try:
        made = benchmarks()
    except (OSError, ResultError) as error:
        raise click.ClickException(str(error)) from None
    if not check:
        PAGE.write_text(made)
    elif PAGE.read_text() != made:
        raise click.ClickException(f"{PAGE.name} is out of date: run python -m bench benchmarks")


COMMANDS = (report_command, compare_command, benchmarks_command)
