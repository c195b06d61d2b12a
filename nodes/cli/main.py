"""The command `airdraft`."""

from __future__ import annotations

import sys

import click

from nodes.cli.apikeys import apikeys_group
from nodes.cli.chat.command import chat_command
from nodes.cli.completion import completion_command
from nodes.cli.doctor import doctor_command
from nodes.cli.gateway import gateway_command
from nodes.cli.generate import generate_command
from nodes.cli.keys import join_command, keys_group
from nodes.cli.models import models
from nodes.cli.node import coordinator_command, draft_command, target_command, up_command
from nodes.cli.nodes import nodes_group
from nodes.cli.plan import plan_command
from nodes.cli.run import run_command
from nodes.cli.top import top_command
from nodes.cli.trace import trace_group
from nodes.cli.units import install_units_command
from nodes.cli.version import version_option
from nodes.runtime import (
    hold_standard_files,
    let_go_of_stderr,
    report,
    set_engine_environment,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@version_option
def cli() -> None:
    """Several edge devices as one private LLM endpoint.

    \b
    Example:
      airdraft run --prompt "Why is the sky blue?"
    """


cli.add_command(run_command)
cli.add_command(up_command)
cli.add_command(generate_command)
cli.add_command(chat_command)
cli.add_command(coordinator_command)
cli.add_command(draft_command)
cli.add_command(target_command)
cli.add_command(gateway_command)
cli.add_command(apikeys_group)
cli.add_command(models)
cli.add_command(nodes_group)
cli.add_command(plan_command)
cli.add_command(top_command)
cli.add_command(trace_group)
cli.add_command(keys_group)
cli.add_command(join_command)
cli.add_command(doctor_command)
cli.add_command(completion_command)
cli.add_command(install_units_command)


def main() -> None:
    hold_standard_files()
    set_engine_environment()
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        # One line: what, where, what to do. Click's own form takes three.
        click.echo("error: " + " ".join(error.format_message().split()), err=True)
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001 - report() turns it into a line and an exit code
        sys.exit(report(error))
    finally:
        let_go_of_stderr()
