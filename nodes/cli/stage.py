"""`airdraft stage`: run a stage of a split model in the foreground."""

from typing import Any

import click

from airdraft.nodes.cli.node import announce
from airdraft.nodes.cli.options import (
    config_option,
    given_settings,
    keys_option,
    max_streams_option,
    model_options,
    setting,
    verbose_option,
)
from airdraft.nodes.config.settings import StageConfig
from airdraft.nodes.config.sources import load
from airdraft.nodes.service.runtime import run_to_end, set_up_logging


@click.command("stage")
@config_option
@setting(StageConfig, "listen", "The endpoint that the stage binds.", "", "ENDPOINT")
@keys_option
@model_options(StageConfig)
@max_streams_option(StageConfig)
@verbose_option
def stage_command(**values: Any) -> None:
    """Run a stage of a split model, which one target at a time uses.

    \b
    Example:
      airdraft stage -m qwen2.5-coder-1.5b-0-14.gguf --listen tcp://192.168.1.11:7412
    """
    set_up_logging(values["verbose"])
    config = load(StageConfig, values["config"], given_settings(StageConfig, values))

    from airdraft.nodes.service.stages import run_stage

    run_to_end(lambda: run_stage(config, announce), is_service=True)
