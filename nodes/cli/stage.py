"""`airdraft stage`: run a stage of a split model in the foreground."""

from dataclasses import replace
from typing import Any

import click

from airdraft.nodes.cli.node import announce
from airdraft.nodes.cli.options import (
    config_option,
    given_settings,
    keys_option,
    max_streams_option,
    model_options,
    one_model,
    part_option,
    setting,
    verbose_option,
)
from airdraft.nodes.cli.run import with_file
from airdraft.nodes.config.settings import StageConfig
from airdraft.nodes.config.sources import load
from airdraft.nodes.service.runtime import run_to_end, set_up_logging


@click.command("stage")
@click.argument("name", metavar="[MODEL]", required=False)
@part_option(StageConfig, "The part of a whole model: 1/2, or 0-14 for blocks.")
@config_option
@setting(StageConfig, "listen", "The endpoint that the stage binds.", "", "ENDPOINT")
@keys_option
@model_options(StageConfig)
@max_streams_option(StageConfig)
@verbose_option
def stage_command(name: str | None, **values: Any) -> None:
    """Run a stage of a split model, which one target at a time uses.

    The whole model is pulled if it is not on this machine, and its part is cut from it. Files of
    `airdraft models split` need no --part.

    \b
    Examples:
      airdraft stage qwen2.5-coder-1.5b --part 1/2 --listen tcp://192.168.1.11:7412
      airdraft stage -m qwen2.5-coder-1.5b-0-14.gguf
    """
    values["model"] = one_model(name, values["model"])
    set_up_logging(values["verbose"])
    config = load(StageConfig, values["config"], given_settings(StageConfig, values))
    if not config.engine.model:
        raise click.UsageError("name a model: airdraft stage qwen2.5-coder-1.5b --part 1/2")
    config = replace(config, engine=with_file(config.engine))

    from airdraft.nodes.service.stages import run_stage

    run_to_end(lambda: run_stage(config, announce), is_service=True)
