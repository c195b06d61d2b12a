"""`python -m bench report`: a result as Markdown, with pictures on request."""

from __future__ import annotations

from pathlib import Path

import click

from bench.results.schema import ResultError, Results, from_json


def read(path: Path) -> Results:
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
    except ResultError as error:
        raise click.ClickException(f"{path}: {error}") from None


def report_with_plots(results: Results, plots: Path, report_folder: Path | None = None) -> str:
    """Return Markdown and draw its pictures in the folder `plots`.

    report_folder: folder of the report, to which links are relative; None for the current one.
    Without matplotlib the report notes that pictures were left out.
    """
    from bench.results.plots import missing, plot_all
    from bench.results.report import markdown

    if reason := missing():
        return markdown(results, notes=[f"Plots were left out: {reason}"])
    plots.mkdir(parents=True, exist_ok=True)
    made = plot_all(results, plots)
    links = {
        suite: [
            (path.relative_to(report_folder) if report_folder else path).as_posix()
            for path in paths
        ]
        for suite, paths in made.items()
    }
    return markdown(results, plots=links)


@click.command("report")
@click.argument("result", type=click.Path(path_type=Path))
@click.option(
    "--plots",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for PNG files; links in the report are relative to the current folder.",
)
def report_command(result: Path, plots: Path | None) -> None:
    """Print a result as Markdown.

    \b
    Example:
      python -m bench report after.json --plots plots > report.md
    """
    from bench.results.report import markdown

    results = read(result)
    if plots is None:
        click.echo(markdown(results), nl=False)
        return
    click.echo(report_with_plots(results, plots), nl=False)
