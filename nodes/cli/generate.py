"""`airdraft generate`: generates text on a running mesh."""

from pathlib import Path
from typing import Any

import click

from nodes.cli.connection import run_to_end, with_client
from nodes.cli.options import (
    connect_option,
    generate_options,
    keys_option,
    read_prompt,
    verbose_option,
)
from nodes.cli.output import print_request
from nodes.config.settings import ClientConfig, load
from nodes.service.runtime import set_up_logging

_WAITING = "[the coordinator was lost: the answer continues when it is back]"


@click.command("generate")
@connect_option
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="File with the settings connect, keys and [link] of this client.",
)
@keys_option
@generate_options
@verbose_option
def generate_command(**values: Any) -> None:
    """Generate text on a running mesh.

    \b
    Example:
      airdraft generate --prompt "Why is the sky blue?"
    """
    set_up_logging(values["verbose"])
    prompt = read_prompt(values["source"], values["prompt"], values["prompt_file"])
    given = {key: values[key] for key in ("connect", "keys")}
    config = load(ClientConfig, values["config"], given)
    run_to_end(
        lambda: with_client(
            config.connect,
            config.keys,
            lambda client: print_request(client, prompt, values),
            link=config.link,
            rejoins=True,
            on_waiting=lambda: click.echo(_WAITING, err=True),
        )
    )
