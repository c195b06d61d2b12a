"""`python -m bench all`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.whole.suites import SUITES


@click.command("all")
@click.option("--quick", is_flag=True, help="Small cells of every suite, three minutes in all.")
@click.option("--suites", default=",".join(SUITES), show_default=True)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for result.json, report.md and plots.",
)
def all_command(quick: bool, suites: str, out: Path) -> None:
    """Every suite in turn, as one result and one report. Without --quick it takes many hours.

    Ends with 1 if a suite's harness failed, after the others have run; never for a figure.

    \b
    Example:
      python -m bench all --quick --out build/bench
    """
    from bench.results.command import report_with_plots
    from bench.results.options import keep
    from bench.whole.run import run_suites

    names = list(dict.fromkeys(suites.split(",")))
    if unknown := [name for name in names if name not in SUITES]:
        raise click.UsageError(f"--suites: {', '.join(unknown)}: of {', '.join(SUITES)}")
    chosen = {name: SUITES[name] for name in names}
    parts = out / "suites"
    try:
        parts.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"{parts}: {error.strerror}") from None
    results, failures = run_suites(chosen, parts, is_quick=quick, report=click.echo)
    keep(results, out / "result.json")
    text = report_with_plots(results, out / "plots", out)
    (out / "report.md").write_text(text, encoding="utf-8")
    click.echo(f"{out / 'report.md'}")
    for failure in failures:
        click.echo(failure, err=True)
    sys.exit(1 if failures else 0)
