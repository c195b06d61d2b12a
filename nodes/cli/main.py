"""The command `airdraft`."""

from __future__ import annotations

import sys
from collections import UserDict
from collections.abc import Iterator
from importlib import import_module
from typing import Final

import click
from click.shell_completion import get_completion_class

from nodes.cli.version import version_option
from nodes.service.runtime import (
    hold_standard_files,
    let_go_of_stderr,
    report,
    set_engine_environment,
)

# Command -> module and variable. A module is imported only when its command is used. Without the
# imports of all others a node restarts one second sooner, on a small machine several.
_PLACES: Final = {
    "run": "run.run_command",
    "serve": "up.serve_command",
    "up": "up.up_command",
    "generate": "generate.generate_command",
    "chat": "chat.command.chat_command",
    "coordinator": "node.coordinator_command",
    "draft": "node.draft_command",
    "target": "node.target_command",
    "gateway": "gateway.gateway_command",
    "apikeys": "apikeys.apikeys_group",
    "models": "models.models",
    "nodes": "nodes.nodes_group",
    "plan": "plan.plan_command",
    "top": "top.top_command",
    "trace": "trace.trace_group",
    "keys": "keys.keys_group",
    "join": "keys.join_command",
    "doctor": "doctor.doctor_command",
    "completion": "main.completion_command",
    "install-units": "units.install_units_command",
}


class _Commands(UserDict[str, click.Command]):
    """The commands by name, each imported when it is looked up."""

    def __getitem__(self, name: str) -> click.Command:
        if name not in self.data:
            module, _, variable = _PLACES[name].rpartition(".")
            command = getattr(import_module(f"nodes.cli.{module}"), variable)
            assert isinstance(command, click.Command)
            self.data[name] = command
        return self.data[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)

    def __contains__(self, name: object) -> bool:
        return name in _PLACES


@click.group(commands=_Commands(), context_settings={"help_option_names": ["-h", "--help"]})
@version_option
def cli() -> None:
    """Turn several edge devices into one private LLM endpoint.

    \b
    Example:
      airdraft run --prompt "Why is the sky blue?"
    """


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print the script that completes commands and options in a shell.

    \b
    Examples:
      airdraft completion bash > ~/.local/share/bash-completion/completions/airdraft
      airdraft completion zsh > ~/.zfunc/_airdraft        # with ~/.zfunc in fpath
      airdraft completion fish > ~/.config/fish/completions/airdraft.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    made = found(context.find_root().command, {}, "airdraft", "_AIRDRAFT_COMPLETE")
    # source() is avoided because for bash it runs this machine's shell to read its version.
    click.echo(made.source_template % made.source_vars())


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
        # One line with what, where and what to do; click's own form takes three lines.
        click.echo("error: " + " ".join(error.format_message().split()), err=True)
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001 - report() turns it into a line and an exit code
        sys.exit(report(error))
    finally:
        let_go_of_stderr()
