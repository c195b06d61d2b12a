"""`python -m bench paper`: the experiments of arXiv 2510.11331."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

from bench.paper.rules import ScenarioError
from bench.paper.scenario import PAPER, Scenario, load

_QUICK_SEEDS = 5


@click.command("paper")
@click.option("--quick", is_flag=True, help="Use three values per sweep and five seeds.")
@click.option(
    "--out",
    default="build/paper",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for report, CSV and PNG files.",
)
@click.option(
    "--seeds", type=click.IntRange(min=5), help="Number of seeds. Default: that of the scenario."
)
@click.option(
    "--scenario",
    "scenario_path",
    default=PAPER,
    type=click.Path(path_type=Path),
    help="Scenario file, or paper-as-printed for the paper's own model. "
    "Default: bench/scenarios/paper.toml.",
)
def paper_command(quick: bool, out: Path, seeds: int | None, scenario_path: Path) -> None:
    """Run the evaluation of arXiv 2510.11331.

    It writes a report, tables and figures.

    \b
    Example:
      python -m bench paper --quick --out build/paper
      python -m bench paper --scenario paper-as-printed --quick
    """
    from bench.paper.printed.report import quick as fewer
    from bench.paper.printed.report import run_printed
    from bench.paper.printed.setting import PRINTED, load_setting
    from bench.paper.report import run_paper

    try:
        if scenario_path in (Path(PRINTED.stem), PRINTED):
            printed = load_setting()
            run_printed(
                fewer(printed) if quick else printed, out, lambda t: click.echo(t, err=True)
            )
            click.echo(f"{out / 'printed.md'}")
            return
        scenario = _shortened(load(scenario_path), quick, seeds)
        run_paper(scenario, out, lambda text: click.echo(text, err=True))
    except ScenarioError as error:
        prefix = "" if str(error).startswith(f"{scenario_path}:") else f"{scenario_path}: "
        click.echo(f"{prefix}{error}", err=True)
        sys.exit(2)
    click.echo(f"{out / 'report.md'}")


def _shortened(scenario: Scenario, quick: bool, seeds: int | None) -> Scenario:
    from bench.paper.sweeps import quick as thinned

    if quick:
        scenario = thinned(scenario, _QUICK_SEEDS)
    if seeds is not None:
        scenario = replace(scenario, run=replace(scenario.run, seeds=seeds))
    return scenario
