"""`airdraft completion`: prints a script that completes commands and options in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


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
