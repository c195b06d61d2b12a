"""`airdraft plan`: plans a scenario, with the reasons."""

import json
import textwrap
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from airdraft.nodes.cli.options import FILE
from airdraft.nodes.config.settings import ConfigError
from airdraft.nodes.config.sources import read_toml
from airdraft.policies.baselines import POLICIES
from airdraft.policies.explain import WIDTH, explain, text_of
from airdraft.policies.scenario import ScenarioError, scenario_from


@click.command("plan")
@click.argument("path", metavar="SCENARIO.toml", type=FILE)
@click.option(
    "--policy",
    type=click.Choice(list(POLICIES)),
    default="joint",
    show_default=True,
    metavar="NAME",
    help=f"Planner to use: {', '.join(POLICIES)}.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan_command(path: Path, policy: str, as_json: bool) -> None:
    """Plan a scenario, and say why each group of streams has its guesses or none.

    Of a model in stages it also tells who gets which layers. All times are predictions from the
    costs in the scenario; no model is run.

    \b
    Examples:
      airdraft plan bench/scenarios/two-boxes-wifi.toml
      airdraft plan bench/scenarios/narrow-cell.toml --policy max-batch --json
      airdraft plan bench/scenarios/split-nanos.toml
    """
    mapping = read_toml(path, "scenario")
    try:
        scenario = scenario_from(mapping, str(path), partial(_named_file, path))
    except ScenarioError as error:
        raise ConfigError(str(error)) from None
    explanation, split = explain(scenario.observation, policy), scenario.split
    if as_json:
        found = {"scenario": str(path), "name": scenario.name, **asdict(explanation)}
        if split is not None:
            found["shares"] = [asdict(share) for share in split.shares]
        click.echo(json.dumps(found, allow_nan=False))
    else:
        if split is not None:
            click.echo(textwrap.fill(split.told, WIDTH) + "\n")
        click.echo(text_of(explanation, scenario.name or path.name))


def _named_file(scenario: Path, key: str, name: str) -> dict[str, Any]:
    """Read a file whose path the scenario gives relative to itself."""
    try:
        return read_toml(scenario.parent / name, "file")
    except ConfigError as error:
        says = "a TOML file, by its path relative to the scenario, is accepted"
        raise ConfigError(f"{scenario}: {key} = {name!r}: {error}; {says}") from None
