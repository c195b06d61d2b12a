"""`python -m bench report|benchmarks`: what was measured, as Markdown."""

from __future__ import annotations

from pathlib import Path

import click

from bench.results.schema import ResultError, from_json


@click.command("report")
@click.argument("result", type=click.Path(path_type=Path))
def report_command(result: Path) -> None:
    """Print a result as Markdown.

    \b
    Example:
      python -m bench report after.json > report.md
    """
    from bench.results.report import markdown

    try:
        read = from_json(result.read_text(encoding="utf-8"))
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
    from bench.results.page import PAGE, benchmarks

    try:
        made = benchmarks()
    except (OSError, ResultError) as error:
        raise click.ClickException(str(error)) from None
    if not check:
        PAGE.write_text(made)
    elif PAGE.read_text() != made:
        raise click.ClickException(f"{PAGE.name} is out of date: run python -m bench benchmarks")


COMMANDS = (report_command, benchmarks_command)
