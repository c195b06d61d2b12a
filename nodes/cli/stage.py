"""`airdraft stage`: run some layers of a target's model in the foreground."""

from dataclasses import replace
from typing import Any

import click

from airdraft.nodes.cli.node import announce
from airdraft.nodes.cli.options import (
    config_option,
    given_settings,
    mesh_options,
    model_options,
    one_model,
    setting,
    verbose_option,
)
from airdraft.nodes.cli.progress import Progress
from airdraft.nodes.cli.run import with_file
from airdraft.nodes.config.settings import StageConfig
from airdraft.nodes.config.sources import load
from airdraft.nodes.service.running import Running, registered
from airdraft.nodes.service.runtime import run_to_end, set_up_logging

_PART = "The only part of the model that it runs: 1/2, or 0-14 for blocks."
_LISTEN = "The endpoint that targets connect to.  [default: port 7412]"


@click.command("stage")
@click.argument("named", metavar="[MODEL]", required=False)
@setting(StageConfig, "engine.part", _PART, "", "K/N|FIRST-END")
@config_option
@setting(StageConfig, "listen", _LISTEN, "", "ENDPOINT")
@mesh_options
@setting(StageConfig, "name", "The stage's name in the mesh.")
@model_options(StageConfig)
@verbose_option
def stage_command(named: str | None, **values: Any) -> None:
    """Lend this machine to a target that runs its model across several machines.

    The target says which layers, and sends them if this machine lacks the model.

    \b
    Examples:
      airdraft stage
      airdraft stage qwen2.5-coder-1.5b --part 1/2
    """
    values["model"] = one_model(named, values["model"])
    set_up_logging(values["verbose"])
    config = load(StageConfig, values["config"], given_settings(StageConfig, values))
    if config.engine.part and not config.engine.model:
        raise click.UsageError("name the model of which this is a part")
    if config.engine.model:
        config = replace(config, engine=with_file(config.engine))

    from airdraft.nodes.service.stages import run_stage

    listed = Running("stage", name=config.name, model=config.engine.model)
    with Progress() as progress, registered(listed) as file:

        def on_bound(endpoint: str) -> None:
            file.change(is_ready=True)
            announce(endpoint)

        run_to_end(lambda: run_stage(config, on_bound, progress), is_service=True)
