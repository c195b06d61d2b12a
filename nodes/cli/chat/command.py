"""The command `airdraft chat`."""

import sys
from typing import Any, cast

import click

from nodes.api import Options, SyncClient
from nodes.cli.chat.conversation import CommandError, Conversation
from nodes.cli.chat.terminal import Terminal, use_readline
from nodes.cli.options import mesh_options, sampling_options
from nodes.service.runtime import set_up_logging


@click.command("chat")
@click.option("--system", default="", metavar="TEXT", help="System message for the model.")
@click.option("--load", metavar="FILE", help="Continue a conversation that /save wrote.")
@sampling_options(512)
@click.option("--stats", is_flag=True, help="Show speed and acceptance after each answer.")
@mesh_options
def chat_command(**values: Any) -> None:
    """Chat with the model of a running mesh.

    Answers appear as they are generated. Ctrl-C stops an answer, Ctrl-D quits, and /help lists the
    commands. If standard input is a pipe, each line is a turn.

    \b
    Examples:
      airdraft chat --system "Answer in one sentence." --stats
      printf 'My name is Ada.\\nWhat is my name?\\n' | airdraft chat
    """
    set_up_logging(0)
    names = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "gamma")
    conversation = Conversation(
        cast(Options, {name: values[name] for name in names}),
        system=values["system"],
        has_stats=values["stats"],
    )
    if values["load"] is not None:
        try:
            conversation.load(values["load"])
        except CommandError as error:
            raise click.UsageError(f"--load: {error}") from None
        conversation.system = values["system"] or conversation.system
    if sys.stdin.isatty():
        use_readline()
    terminal = Terminal(
        conversation,
        lambda: SyncClient(values["connect"] or "", key=values["keys"], on_waiting=terminal.waits),
        stdin=sys.stdin,
        stdout=sys.stdout,
        stderr=sys.stderr,
    )
    if code := terminal.run():
        sys.exit(code)
