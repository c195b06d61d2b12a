"""`python -m bench paper`: the evaluation of arXiv 2510.11331 in the paper's own model."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("paper")
@click.option("--quick", is_flag=True, help="Use three values per sweep and three seeds.")
@click.option(
    "--out",
    default="build/paper",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the report.",
)
def paper_command(quick: bool, out: Path) -> None:
    """Compare printed figures of arXiv 2510.11331 with computed ones.

    They are computed in the paper's own model. The values are in
    bench/scenarios/paper-as-printed.toml.

    \b
    Example:
      python -m bench paper --quick --out build/paper
    """
    from bench.paper.report import fewer, run_printed
    from bench.paper.setting import load_setting

    setting = load_setting()
    run_printed(fewer(setting) if quick else setting, out, lambda text: click.echo(text, err=True))
    click.echo(out / "printed.md")
