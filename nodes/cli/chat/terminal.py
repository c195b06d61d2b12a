"""The command `airdraft chat`: a loop that reads a line and prints the answer as it arrives."""

import contextlib
import sys
from collections.abc import Callable
from typing import Any, TextIO, cast

import click

from airdraft.nodes.api import AirdraftError, Client, Completion, ConnectionLostError, Options
from airdraft.nodes.cli.cells import harmless
from airdraft.nodes.cli.chat.conversation import CommandError, Conversation
from airdraft.nodes.cli.generate import figures_line
from airdraft.nodes.cli.options import (
    leaves_sampling_open,
    mesh_options,
    sampling_in,
    sampling_options,
)
from airdraft.nodes.client.client import RequestFailedError
from airdraft.nodes.service.runtime import one_line, set_up_logging

_PROMPT = "> "
_WAITING = "[the coordinator was lost: the answer continues when it is back; Ctrl-C stops it]"


class Terminal:
    """A chat on three streams. connect: makes a client; called again when one was lost."""

    def __init__(
        self,
        conversation: Conversation,
        connect: Callable[[], Client],
        *,
        stdin: TextIO,
        stdout: TextIO,
        stderr: TextIO,
    ) -> None:
        self._conversation = conversation
        self._connect = connect
        self._client: Client | None = None
        self._in, self._out, self._err = stdin, stdout, stderr
        self._is_interactive = stdin.isatty()

    def run(self) -> int:
        """Run until /quit or the end of the input, and return the exit code."""
        try:
            self._client = self._connect()
            if self._is_interactive:
                self._tell("/help lists the commands, Ctrl-D quits.")
            while not self._conversation.is_over:
                try:
                    line = self._read()
                except KeyboardInterrupt:
                    # Ctrl-C drops the typed line.
                    self._tell("")
                    continue
                except UnicodeDecodeError:
                    self._tell("error: the line is not valid UTF-8")
                    if not self._is_interactive:
                        return 1
                    continue
                if line is None:
                    break
                if not self._take(line.strip()) and not self._is_interactive:
                    return 1
        finally:
            if self._client is not None:
                self._client.close()
        return 0

    def _read(self) -> str | None:
        """Read the next line; None at the end of the input."""
        if self._is_interactive and self._in is sys.stdin:
            try:
                # input() edits and recalls lines if readline is installed.
                return input(_PROMPT)
            except EOFError:
                self._tell("")
                return None
        return self._in.readline() or None

    def _take(self, line: str) -> bool:
        """Process a line; return False if that failed."""
        if not line:
            return True
        if line.startswith("/") and not line.startswith("//"):
            try:
                self._tell(self._conversation.command(line))
            except CommandError as error:
                self._tell(f"error: {error}")
                return False
            return True
        return self._answer(line.removeprefix("/") if line.startswith("//") else line)

    def _answer(self, text: str) -> bool:
        parts: list[str] = []
        completion: Completion | None = None
        is_fine = True
        try:
            if self._client is None:
                self._client = self._connect()
            options = self._conversation.options
            if leaves_sampling_open(options):
                known = sampling_in(cast(dict[str, Any], options), self._client.nodes())
                options.update(cast(Options, known))
            with self._client.stream_chat(self._conversation.asked(text), **options) as pieces:
                for piece in pieces:
                    parts.append(piece.text)
                    self._write(piece.text)
            completion = pieces.completion
        except KeyboardInterrupt:
            self._write(" [stopped]")
        except (AirdraftError, RequestFailedError) as error:
            is_fine = False
            if parts:
                self._write("\n")
            self._tell(f"error: {one_line(str(error))}")
            if isinstance(error, ConnectionLostError) and self._client is not None:
                # The conversation is kept, and the next line connects again.
                self._client.close()
                self._client = None
        if is_fine:
            self._write("\n")
        self._conversation.answered(text, "".join(parts))
        if completion is not None and self._conversation.has_stats:
            self._tell(figures_line(completion))
        return is_fine

    def waits(self) -> None:
        """Report that an answer waits for the coordinator; may be called in any thread."""
        self._tell(f"\n{_WAITING}")

    def _write(self, text: str) -> None:
        if self._out.isatty():
            text = harmless(text)
        self._out.write(text)
        self._out.flush()

    def _tell(self, text: str) -> None:
        if text or self._is_interactive:
            print(text, file=self._err, flush=True)


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
    names = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "gamma", "thinking")
    conversation = Conversation(
        cast(Options, {name: values[name] for name in names}),
        system=values["system"],
        has_stats=values["stats"],
    )
    if values["load"] is not None:
        try:
            conversation.on_load(values["load"])
        except CommandError as error:
            raise click.UsageError(f"--load: {error}") from None
        conversation.system = values["system"] or conversation.system
    if sys.stdin.isatty():
        # With it input() edits and recalls lines. Typed lines are not stored on disk.
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401
    terminal = Terminal(
        conversation,
        lambda: Client(values["connect"] or "", key=values["keys"], on_waiting=terminal.waits),
        stdin=sys.stdin,
        stdout=sys.stdout,
        stderr=sys.stderr,
    )
    if code := terminal.run():
        sys.exit(code)
